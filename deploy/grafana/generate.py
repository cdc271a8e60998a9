"""Generates the Grafana dashboard from code. Usage: python generate.py OUTPUT_FOLDER"""

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as model

DATASOURCE = model.DataSourceRef(type_val="prometheus", uid="$datasource")
CLUSTER = 'cluster=~"$cluster"'
TOPIC = f'{CLUSTER},topic=~"$topic"'
GROUP = f'{CLUSTER},group=~"$group"'
RATE = "[$__rate_interval]"


def query(expression: str, legend: str = "") -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).legend_format(legend or "__auto")


def number(title: str, expression: str, healthy: str) -> stat.Panel:
    """A tile of the top row; ``healthy`` tells the reader what good looks like."""
    return (
        stat.Panel()
        .title(title)
        .description(healthy)
        .datasource(DATASOURCE)
        .with_target(query(expression))
        .height(4)
        .span(3)
    )


def graph(
    title: str, unit: str, description: str, *queries: prometheus.Dataquery
) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .min(0)
        .datasource(DATASOURCE)
        .height(8)
        .span(12)
    )
    for index, target in enumerate(queries):
        panel = panel.with_target(target.ref_id(chr(ord("A") + index)))
    return panel


def variable(name: str, expression: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query(expression)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def across(function: str, labels: str, metric: str, selector: str) -> str:
    return f"{function} by ({labels}) ({metric}{{{selector}}})"


def rate_by(labels: str, metric: str, selector: str) -> str:
    return f"sum by ({labels}) (rate({metric}{{{selector}}}{RATE}))"


def quantile(fraction: str, histogram: str, selector: str) -> str:
    return f"histogram_quantile({fraction}, {rate_by('le', histogram + '_bucket', selector)})"


def health_row(board: dashboard.Dashboard) -> dashboard.Dashboard:
    def count(metric: str) -> str:
        return f"sum(millstream_partition_{metric}{{{CLUSTER}}})"

    brokers = f"count(millstream_broker_info{{{CLUSTER}}})"
    controllers = f"sum(millstream_active_controller{{{CLUSTER}}})"
    losses = f"sum(increase(millstream_possible_losses_total{{{CLUSTER}}}[$__range]))"
    return (
        board.with_row(dashboard.Row("Health"))
        .with_panel(number("Brokers online", brokers, "All of them"))
        .with_panel(number("Active controllers", controllers, "1"))
        .with_panel(number("Offline partitions", count("offline"), "0"))
        .with_panel(number("Under-replicated", count("under_replicated"), "0"))
        .with_panel(number("Under min ISR", count("under_min_isr"), "0"))
        .with_panel(number("At min ISR", count("at_min_isr"), "0 with replication factor 3"))
        .with_panel(number("Possible losses", losses, "0: elections that may have lost records"))
    )


def throughput_row(board: dashboard.Dashboard) -> dashboard.Dashboard:
    def flow(what: str) -> tuple[prometheus.Dataquery, prometheus.Dataquery]:
        return (
            query(rate_by("topic", f"millstream_topic_{what}_in_total", TOPIC), "in {{topic}}"),
            query(rate_by("topic", f"millstream_topic_{what}_out_total", TOPIC), "out {{topic}}"),
        )

    produce = f'{CLUSTER},api="produce"'
    duration = "millstream_request_duration_seconds"
    stage = "millstream_request_stage_seconds"
    total, calls = (rate_by("stage", stage + part, CLUSTER) for part in ("_sum", "_count"))
    mean = f"{total} / {calls}"
    return (
        board.with_row(dashboard.Row("Throughput"))
        .with_panel(graph("Records", "short", "Records a second.", *flow("records")))
        .with_panel(graph("Bytes", "Bps", "Bytes of batches a second.", *flow("bytes")))
        .with_panel(
            graph(
                "Produce latency",
                "s",
                "From receipt to answer.",
                query(quantile("0.5", duration, produce), "p50"),
                query(quantile("0.99", duration, produce), "p99"),
            )
        )
        .with_panel(
            graph("Produce stages", "s", "Mean time in each stage.", query(mean, "{{stage}}"))
        )
    )


def replication_row(board: dashboard.Dashboard) -> dashboard.Dashboard:
    def lag(unit: str) -> prometheus.Dataquery:
        metric = f"millstream_replica_lag_{unit}"
        return query(across("max", "topic, replica", metric, TOPIC), "{{topic}} on {{replica}}")

    in_sync = across("min", "topic", "millstream_partition_in_sync_replicas", TOPIC)
    flush = "millstream_log_flush_duration_seconds"
    worst = "Worst partition of each topic and replica"
    return (
        board.with_row(dashboard.Row("Replication"))
        .with_panel(
            graph(
                "ISR lag in seconds",
                "s",
                f"{worst}, against replica.lag.time.max.ms.",
                lag("seconds"),
            )
        )
        .with_panel(graph("ISR lag in records", "short", f"{worst}.", lag("records")))
        .with_panel(
            graph(
                "In-sync replicas", "short", "Fewest of any partition.", query(in_sync, "{{topic}}")
            )
        )
        .with_panel(
            graph(
                "Sync to disk",
                "s",
                "One write and sync of a log directory.",
                query(quantile("0.5", flush, CLUSTER), "p50"),
                query(quantile("0.99", flush, CLUSTER), "p99"),
            )
        )
    )


def changes_row(board: dashboard.Dashboard) -> dashboard.Dashboard:
    copied = "millstream_replication_bytes"
    return (
        board.with_row(dashboard.Row("Elections and copies"))
        .with_panel(
            graph(
                "ISR changes",
                "short",
                "Shrinks and expands a second, by leaders.",
                query(f"sum(rate(millstream_isr_shrinks_total{{{CLUSTER}}}{RATE}))", "shrinks"),
                query(f"sum(rate(millstream_isr_expands_total{{{CLUSTER}}}{RATE}))", "expands"),
            )
        )
        .with_panel(
            graph(
                "Elections",
                "short",
                "Leaders elected a second, by kind.",
                query(rate_by("kind", "millstream_leader_elections_total", CLUSTER), "{{kind}}"),
            )
        )
        .with_panel(
            graph(
                "Replication traffic",
                "Bps",
                "Bytes copied a second, by broker.",
                query(rate_by("instance", f"{copied}_in_total", CLUSTER), "in {{instance}}"),
                query(rate_by("instance", f"{copied}_out_total", CLUSTER), "out {{instance}}"),
            )
        )
        .with_panel(
            graph(
                "Leaders out of place",
                "short",
                "Partitions that their preferred replica does not lead.",
                query(f"sum(millstream_preferred_leader_imbalance{{{CLUSTER}}})", "partitions"),
            )
        )
    )


def consumer_row(board: dashboard.Dashboard) -> dashboard.Dashboard:
    def group(function: str, labels: str, what: str, legend: str) -> prometheus.Dataquery:
        return query(across(function, labels, f"millstream_consumer_group_{what}", GROUP), legend)

    by_topic, legend = "group, topic", "{{group}} {{topic}}"
    loop_lag = query(f"millstream_event_loop_lag_seconds{{{CLUSTER}}}", "{{instance}}")
    return (
        board.with_row(dashboard.Row("Consumer groups"))
        .with_panel(
            graph(
                "Consumer lag in records",
                "short",
                "Records that a group has still to commit.",
                group("sum", by_topic, "lag_records", legend),
            )
        )
        .with_panel(
            graph(
                "Consumer lag in seconds",
                "s",
                "Age of the oldest record that a group has not committed.",
                group("max", by_topic, "lag_seconds", legend),
            )
        )
        .with_panel(
            graph("Members", "short", "By group.", group("sum", "group", "members", "{{group}}"))
        )
        .with_panel(graph("Event-loop lag", "s", "Above 0.1 s a process is overloaded.", loop_lag))
    )


def overview() -> dashboard.Dashboard:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    board = (
        dashboard.Dashboard("Millstream overview")
        .uid("millstream-overview")
        .description("Health, throughput, ISR lag and consumer lag of a Millstream cluster.")
        .tags(["millstream"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(source)
    )
    for name, metric in (
        ("cluster", "millstream_build_info"),
        ("topic", "millstream_partition_log_end_offset"),
        ("group", "millstream_consumer_group_members"),
    ):
        board = board.with_variable(variable(name, f"label_values({metric}, {name})"))
    for row in (health_row, throughput_row, replication_row, changes_row, consumer_row):
        board = row(board)
    return board


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    text = JSONEncoder(sort_keys=True, indent=2).encode(overview().build())
    (folder / "millstream-overview.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
