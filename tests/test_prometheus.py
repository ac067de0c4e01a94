"""Alerts and dashboards: they can be loaded, rest on what is really exposed, and come when due."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, Metric, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tests.probes import Service
from tests.rig.environment import REPOSITORY
from tests.rig.ports import free_ports
from tests.rig.prometheus import Prometheus, promtool
from tests.rig.waiting import eventually
from workers import metrics
from workers.broker import build_broker
from workers.database import Database
from workers.job import Job, Run
from workers.middleware.metrics import WorkerMetrics
from workers.periodic import every
from workers.settings import Settings
from workers.status import collect
from workers.status.problems import KINDS

pytest_plugins = ["tests.probe_fixtures"]

RULES = REPOSITORY / "infra/prometheus/rules/jobs.yml"
DASHBOARDS = sorted((REPOSITORY / "infra/grafana/dashboards").glob("*.json"))
PROVISIONING = REPOSITORY / "infra/grafana/provisioning"

ONLY_IN_PROMETHEUS = {"metrics_missing", "target_down"}
"""What the service itself cannot know."""


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_takes_the_configuration() -> None:
    # Only the syntax: the token's file is where the service runs.
    promtool("check", "config", "--syntax-only", "infra/prometheus/prometheus.yml")
    promtool("check", "rules", str(RULES))


def test_each_alert_comes_when_it_should_and_only_then() -> None:
    tests = sorted((REPOSITORY / "infra/prometheus/tests").glob("*.yml"))
    assert "SUCCESS" in promtool("test", "rules", *map(str, tests))


def test_each_alert_has_such_a_test() -> None:
    tested = (REPOSITORY / "infra/prometheus/tests/jobs.yml").read_text()
    for alert in alerts():
        for samples in ("exp_samples:\n", "exp_samples: []\n"):
            expression = f'ALERTS{{alertname="{alert["alert"]}", alertstate="firing"}}'
            assert re.search(re.escape(expression) + r"\s+" + re.escape(samples), tested)


def test_each_alert_is_a_problem_that_the_page_shows() -> None:
    by_code = {alert["labels"]["code"]: alert for alert in alerts()}
    assert len(by_code) == len(alerts())
    assert by_code.keys() == KINDS.keys() | ONLY_IN_PROMETHEUS
    for code, kind in KINDS.items():
        alert = by_code[code]
        assert alert["labels"]["severity"] == kind.severity, code
        assert alert["annotations"]["runbook_url"].endswith(f"#{kind.anchor}"), code


def test_each_alert_says_what_it_is_about_and_where_to_read_on() -> None:
    for alert in alerts():
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert alert["labels"]["severity"] in ("page", "warning")


class TestWhatIsExposed:
    @pytest.fixture
    def exposed(self, database: Database) -> list[Metric]:
        """All that the service and a worker of it expose, of a job that has done everything."""
        broker = build_broker(Settings(), database, (), in_process=True)
        Job(
            lambda _run: {},
            broker=broker,
            actor_name="job",
            queue_name="low",
            priority=0,
            options={"periodic": every(seconds=60)},
        )
        status = collect(Settings(), database, broker)
        (worker,) = (each for each in broker.middleware if isinstance(each, WorkerMetrics))
        text = metrics.render(status).decode() + generate_latest(worker.registry).decode()
        return list(text_string_to_metric_families(text))

    def names(self, exposed: list[Metric]) -> set[str]:
        suffixes = {
            "counter": ("_total",),
            "histogram": ("_bucket", "_count", "_sum"),
        }
        return {
            # The parser takes the suffix from the name of a counter
            family.name.removesuffix("_total") + suffix
            for family in exposed
            for suffix in suffixes.get(family.type, ("",))
        }

    def test_is_well_named(self, exposed: list[Metric]) -> None:
        ours = [family for family in exposed if not family.name.startswith("process_")]
        assert len(ours) > 30
        assert all(family.name.startswith("jobs_") for family in ours)

    def test_is_what_promtool_wants(self, database: Database) -> None:
        broker = build_broker(Settings(), database, (), in_process=True)
        exposed = metrics.render(collect(Settings(), database, broker)).decode()
        assert promtool("check", "metrics", text=exposed) == ""

    @pytest.mark.parametrize("path", [RULES, *DASHBOARDS], ids=lambda path: path.name)
    def test_has_all_that_is_asked_for(self, exposed: list[Metric], path: Path) -> None:
        asked = set(re.findall(r"\b(?:jobs|process)_[a-z_]+[a-z]\b", expressions(path)))
        assert len(asked) > 10
        assert asked - self.names(exposed) == set()

    def test_is_all_in_the_table(self, exposed: list[Metric]) -> None:
        table = (REPOSITORY / "docs/metrics.md").read_text()
        documented = set(re.findall(r"^\| `(jobs_[a-z_]+)", table, re.MULTILINE))
        names = {
            family.name.removesuffix("_total") + ("_total" if family.type == "counter" else "")
            for family in exposed
            if family.name.startswith("jobs_")
        }
        assert documented == names


def expressions(path: Path) -> str:
    if path == RULES:
        return "\n".join(alert["expr"] for alert in alerts())
    return "\n".join(find_all(json.loads(path.read_text()), "expr", "definition"))


def find_all(tree: Any, *keys: str) -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key in keys and isinstance(value, str):
                yield value
            yield from find_all(value, *keys)
    elif isinstance(tree, list):
        for value in tree:
            yield from find_all(value, *keys)


class TestTheDashboards:
    @pytest.fixture(params=DASHBOARDS, ids=lambda path: path.name)
    def dashboard(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        path: Path = request.param
        loaded: dict[str, Any] = json.loads(path.read_text())
        return loaded

    def test_keep_their_address_and_can_be_narrowed(self, dashboard: dict[str, Any]) -> None:
        assert dashboard["uid"] == "marketplace-jobs"
        variables = [each["name"] for each in dashboard["templating"]["list"]]
        assert variables == ["datasource", "queue", "job"]

    def test_take_their_data_from_the_source_that_is_chosen(
        self, dashboard: dict[str, Any]
    ) -> None:
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        for panel in panels:
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            assert [target["datasource"]["uid"] for target in panel["targets"]] == (
                ["${datasource}"] * len(panel["targets"])
            )

    def test_lay_no_panel_over_another(self, dashboard: dict[str, Any]) -> None:
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, panel["title"]
            assert at["x"] + at["w"] <= 24
            taken |= cells

    def test_are_found_where_grafana_is_told_to_look(self) -> None:
        (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yml").read_text())[
            "datasources"
        ]
        assert (source["type"], source["uid"]) == ("prometheus", "prometheus")
        (provider,) = yaml.safe_load((PROVISIONING / "dashboards/jobs.yml").read_text())[
            "providers"
        ]
        assert provider["options"]["path"].endswith("/dashboards")


class _Page(Collector):
    """Takes a snapshot for each scrape, as the page does."""

    def __init__(self, take: Callable[[], bytes]) -> None:
        self._take = take

    def collect(self) -> list[Metric]:
        return list(text_string_to_metric_families(self._take().decode()))


@pytest.fixture
def page_port(service: Service) -> Iterator[int]:
    """A port on which the snapshot of a real service is served."""
    settings = Settings(rabbitmq_url=service.rabbitmq.url)
    broker = build_broker(settings, service.database, ())

    def idle(_run: Run) -> None:
        """Stand for the actor of a job."""

    for name in ("probe_effect", "probe_last_statement_fails"):
        Job(idle, broker=broker, actor_name=name, queue_name="default", priority=0, options={})
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(lambda: metrics.render(collect(settings, service.database, broker))))
    (port,) = free_ports(1)
    server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    yield port
    server.shutdown()
    server.server_close()
    thread.join()
    broker.close()


def test_a_real_prometheus_sees_a_real_run_and_its_faults(
    service: Service, page_port: int, tmp_path: Path
) -> None:
    # Given a worker, a page, and a Prometheus that scrapes both as it is configured to
    (worker_port,) = free_ports(1)
    worker = service.start_worker("default", "low", env={"METRICS_PORT": str(worker_port)})
    page, process = f"127.0.0.1:{page_port}", f"127.0.0.1:{worker_port}"
    prometheus = Prometheus(
        service.processes, tmp_path / "prometheus", {"service": [page], "workers": [process]}
    )
    eventually_up(prometheus, page, process)
    names = {rule["name"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert names == {alert["alert"] for alert in alerts()}

    # When one job succeeds, and another fails for good
    service.wait_for_run(service.send("probe_effect"), "succeeded")
    service.wait_for_run(service.send("probe_last_statement_fails"), "dead")

    # Then both tell of it, and "job" is the job
    expect(prometheus, 'jobs_runs_total{job="probe_effect", outcome="succeeded"}', 1)
    expect(prometheus, 'jobs_worker_deliveries_total{job="probe_effect", outcome="succeeded"}', 1)
    expect(prometheus, 'jobs_dead_letters{queue="default"}', 1)
    prometheus.wait_for_alert("DeadLetters", "firing")
    # No scheduler runs, and no worker for customer service
    prometheus.wait_for_alert("SchedulerSilent", "pending", "firing")
    prometheus.wait_for_alert("QueueWithoutWorkers", "pending", "firing")
    well = {"BrokerDown", "DatabaseDown", "MetricsMissing", "OutboxOld", "StandbyActive"}
    assert not prometheus.alert_states().keys() & well

    # When the worker is killed, and then RabbitMQ
    worker.kill()
    prometheus.wait_for_alert("TargetDown", "pending", "firing")
    service.rabbitmq.stop()
    prometheus.wait_for_alert("BrokerDown", "pending", "firing")
    # Then nobody complains of queues that cannot be counted
    expect(prometheus, "count(jobs_queue_consumers) or vector(0)", 0)
    service.rabbitmq.start()
    expect(prometheus, "jobs_broker_up", 1)


def eventually_up(prometheus: Prometheus, *targets: str) -> None:
    up = dict.fromkeys(targets, "up")
    eventually(lambda: prometheus.target_health() == up, timeout_seconds=30)


def expect(prometheus: Prometheus, expression: str, value: float) -> None:
    eventually(
        lambda: prometheus.value(expression) == value,
        timeout_seconds=30,
        message=f"{expression} is not {value}",
    )
