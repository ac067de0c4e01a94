# The service, without the embedded PostgreSQL. Which of its processes runs, the command says: those
# of the Procfile. compose.yaml builds it.
FROM python:3.13-slim-bookworm

# Nobody needs to become anybody else, or to change the program.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin workers

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LOG_FORMAT=json

WORKDIR /app
COPY requirements.txt .
# Wheels only, at the versions and hashes that were tested: nothing is compiled or chosen here.
RUN python -m pip install --no-cache-dir --disable-pip-version-check \
    --only-binary :all: --require-hashes --requirement requirements.txt
COPY Procfile ./
COPY workers ./workers

USER workers
