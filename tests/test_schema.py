"""The schema: models and migrations agree, and any number of processes may migrate at once."""

import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from tests.rig.postgres import Postgres, query
from tests.rig.processes import Processes
from workers import schema
from workers.models import Base
from workers.schema import (
    SchemaBehind,
    SchemaError,
    current_revision,
    head_revision,
    migrate,
    require_current,
)

CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, numeric_precision, numeric_scale, is_nullable,
               column_default, identity_generation
        FROM information_schema.columns WHERE table_schema = 'public'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'""",
}

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"

ADVISORY_LOCKS = """
    SELECT * FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND datname = current_database()"""


@pytest.fixture
def connect() -> Iterator[Callable[[str], Engine]]:
    """Make engines that are disposed of at the end."""
    engines = []

    def connect(url: str) -> Engine:
        engines.append(create_engine(url))
        return engines[-1]

    yield connect
    for engine in engines:
        engine.dispose()


@pytest.fixture
def migrated(connect: Callable[[str], Engine], database_url: str) -> Engine:
    return connect(database_url)


@pytest.fixture
def empty(connect: Callable[[str], Engine], empty_database_url: str) -> Engine:
    return connect(empty_database_url)


@pytest.fixture
def two_empty_urls(postgres: Postgres) -> Iterator[list[str]]:
    urls = [postgres.create_database(is_migrated=False) for _ in range(2)]
    yield urls
    for url in urls:
        postgres.drop_database(url)


def catalog(engine: Engine, of: str) -> list[str]:
    """What the database says of its own schema, a line each."""
    with engine.connect() as connection:
        rows = connection.execute(text(CATALOG[of])).all()
    return sorted(str(tuple(row)) for row in rows if row[0] != "alembic_version")


# --- Models and migrations -----------------------------------------------------------------------


def test_the_migrations_make_what_the_models_describe(migrated: Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize("of", CATALOG)
def test_not_even_the_catalog_tells_migrations_and_models_apart(
    migrated: Engine, empty: Engine, of: str
) -> None:
    # Sees more than Alembic's comparison does: checks, conditions of indexes, deletion rules.
    Base.metadata.create_all(empty)

    assert catalog(migrated, of) == catalog(empty, of)


def test_the_template_makes_a_migration_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path / "migrations")
    before = head_revision()
    config = Config()
    config.set_main_option("script_location", str(tmp_path / "migrations"))

    command.revision(config, "Something new", rev_id="9999")

    assert head_revision() == "9999"
    (made,) = (tmp_path / "migrations" / "versions").glob("9999*.py")
    assert f"down_revision = '{before}'" in made.read_text()


# --- Migrating -----------------------------------------------------------------------------------


def test_an_empty_database_is_brought_to_the_newest_revision(empty: Engine) -> None:
    assert current_revision(empty) is None

    applied = migrate(empty)

    assert applied[0] == "0001"
    assert applied[-1] == current_revision(empty) == head_revision()


def test_migrating_again_changes_nothing(migrated: Engine) -> None:
    before = catalog(migrated, "columns")

    assert migrate(migrated) == []
    assert catalog(migrated, "columns") == before


def test_of_many_threads_one_migrates_and_all_succeed(empty_database_url: str) -> None:
    def migrate_on_its_own(_: int) -> list[str]:
        engine = create_engine(empty_database_url, poolclass=NullPool)
        return migrate(engine)

    with ThreadPoolExecutor(8) as pool:
        applied = list(pool.map(migrate_on_its_own, range(8)))

    assert sorted(map(bool, applied)) == [False] * 7 + [True]


def test_of_many_processes_one_migrates_and_all_succeed(
    processes: Processes, empty_database_url: str
) -> None:
    program = (
        "import os, sqlalchemy, workers.schema as schema;"
        "print('applied', schema.migrate(sqlalchemy.create_engine(os.environ['DATABASE_URL'])))"
    )
    started = [
        processes.start("python", "-c", program, env={"DATABASE_URL": empty_database_url})
        for _ in range(4)
    ]

    assert [process.wait() for process in started] == [0] * 4
    assert sum("applied ['0001'" in process.output for process in started) == 1
    assert sum("applied []" in process.output for process in started) == 3


def test_several_databases_can_be_migrated_at_once(two_empty_urls: list[str]) -> None:
    def migrate_one(url: str) -> list[str]:
        return migrate(create_engine(url, poolclass=NullPool))

    with ThreadPoolExecutor(2) as pool:
        applied = list(pool.map(migrate_one, two_empty_urls))

    assert all(applied)


def test_a_migration_that_fails_leaves_nothing_behind(
    empty: Engine, empty_database_url: str
) -> None:
    # Given a table in the way of the last ones
    query(empty_database_url, "CREATE TABLE outbox_events ()")

    with pytest.raises(ProgrammingError, match="outbox_events"):
        migrate(empty)

    assert [row.relname for row in query(empty_database_url, TABLES)] == ["outbox_events"]
    assert query(empty_database_url, ADVISORY_LOCKS) == []
    # When it is out of the way, all goes well
    query(empty_database_url, "DROP TABLE outbox_events")
    assert migrate(empty)[-1] == head_revision()


def test_whoever_waits_too_long_for_another_migration_is_told(
    empty: Engine, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "POLL_SECONDS", 0.01)
    with empty.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(hashtextextended('workers.schema', 0))"))

        with pytest.raises(SchemaError) as raised:
            migrate(empty, wait_seconds=0.05)

    assert "another process has been migrating" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert query(empty_database_url, TABLES) == []


def test_a_table_that_stays_in_use_ends_the_wait(migrated: Engine) -> None:
    with migrated.connect() as other:
        other.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))

        with pytest.raises(SchemaError, match="in use for too long"):
            migrate(migrated, table_wait_seconds=0.05)


def test_neither_lock_nor_settings_reach_other_users_of_the_pool(
    empty: Engine, empty_database_url: str
) -> None:
    def settings() -> tuple[str, ...]:
        with empty.connect() as connection:
            return tuple(
                connection.scalar(text(f"SHOW {name}")) or ""
                for name in ("statement_timeout", "lock_timeout")
            )

    before = settings()

    migrate(empty, table_wait_seconds=7)

    assert settings() == before
    assert query(empty_database_url, ADVISORY_LOCKS) == []


def test_the_logging_of_the_process_stays_as_it_was(
    empty: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    bystander = logging.getLogger("tests.bystander")
    root = logging.getLogger()
    before = (root.level, root.handlers[:])

    with caplog.at_level(logging.INFO, logger="workers.schema"):
        migrate(empty)

    assert (root.level, root.handlers) == before
    assert not bystander.disabled
    assert f"Migrating the schema from revision none to {head_revision()}" in caplog.messages


def test_percent_signs_do_no_harm(
    connect: Callable[[str], Engine],
    empty_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As in a password, and in the path of the installation.
    url = make_url(empty_database_url).update_query_dict({"application_name": "100%(x)s"})
    shutil.copytree(schema.MIGRATIONS, tmp_path / "100%(x)s")
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path / "100%(x)s")

    assert migrate(connect(url.render_as_string(hide_password=False)))


# --- Where the schema stands ---------------------------------------------------------------------


def test_a_database_at_the_newest_revision_is_current(migrated: Engine) -> None:
    require_current(migrated)


def test_a_database_without_a_schema_is_behind(empty: Engine) -> None:
    with pytest.raises(SchemaBehind, match="python -m workers migrate"):
        require_current(empty)


@pytest.mark.parametrize("act", [migrate, require_current])
def test_a_database_newer_than_the_code_is_left_alone(
    migrated: Engine, database_url: str, act: Callable[[Engine], object]
) -> None:
    query(database_url, "UPDATE alembic_version SET version_num = 'from-the-future'")

    with pytest.raises(SchemaError, match=r"from-the-future.*deploy the newer code"):
        act(migrated)

    assert current_revision(migrated) == "from-the-future"


def test_an_installation_without_migrations_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "versions").mkdir()
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)

    with pytest.raises(SchemaError, match="no migrations"):
        head_revision()
