"""The export is what ``jepsen.tests.kafka`` reads; whoever breaks a rule of that form is found."""

import pytest

from tests.checker.edn import export
from tests.checker.edn_rules import complaints
from tests.checker.history import History

K, L = ("topic", 0), ("topic", 1)


def planted() -> History:
    """Two sends under way at once, one of each outcome, a reader that crashes, a reader that
    rewinds, a member that is given another partition, and one that reads everything."""
    history = History()
    history.assign("r", [K, L], positions={K: 0, L: 0})
    one = history.invoke_send("w", K, "a", 0.0)
    two = history.invoke_send("w", L, "a", 0.1)
    history.acknowledge(two, 0, "", 0.2)
    history.acknowledge(one, 0, "", 0.3)
    history.poll("r", {K: [(0, "a")], L: [(0, "a")]}, 0.4)
    history.unknown(history.invoke_send("w", K, "b", 0.5), "TIMED_OUT", 0.6)
    history.fail(history.invoke_send("w", K, "c", 0.7), "NOT_LEADER", 0.8)
    history.acknowledge(history.invoke_send("w", K, "d", 0.9), None, "", 1.0)
    history.invoke_send("w", K, "e", 1.1)
    history.assign("r", [K], positions={K: 0})
    history.poll("r", {K: [(0, "a")]}, 1.2)
    history.crash("r")
    history.poll("r", {K: [(0, "a"), (1, "b")]}, 1.3)
    for keys in ([K], [K, L]):
        history.assign("m", keys, subscribed=True)
        history.poll("m", {K: [(0, "a")]}, 1.4)
    history.assign("final", [K, L], positions={K: 0, L: 0})
    history.poll("final", {K: [(0, "a"), (1, "b")]}, 1.5)
    history.poll("final", {K: [(2, "d")], L: [(0, "a")]}, 1.6)
    return history


def test_a_history_of_everything_is_exported_as_others_want_it() -> None:
    lines = list(export(planted()))
    assert complaints(lines) == []
    assert sum(":type :invoke :f :send" in line for line in lines) == 6
    assert sum(":type :info :f :send" in line for line in lines) == 2
    assert sum("[[:send 0 [nil 3]]]" in line for line in lines) == 1


def test_only_the_keys_that_are_included_are_exported() -> None:
    lines = list(export(planted(), lambda key: key == L))
    assert complaints(lines) == []
    assert sum(":f :send" in line for line in lines) == 2
    assert not [line for line in lines if ":send 1" in line or "{1 " in line or ", 1 " in line]


LINES = list(export(planted()))
FINAL = "[[:poll {0 [[2 3]], 1 [[0 0]]}]]"
SEND = "{:process 9 :time 0 :type :invoke :f :send :value [[:send 0 9]]}"
SENT = "{:process 9 :time 0 :type :info :f :send :value [[:send 0 9]]}"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["nothing"], "no operation"),
        ([SEND, SEND.replace("9]]", "8]]"), SENT], "two things at once"),
        ([SEND, SENT, SEND.replace("9]]", "8]]"), SENT.replace("9]]", "8]]")], "in doubt"),
        ([SEND], "never ended"),
        ([SENT], "did not begin"),
        ([SEND, SENT, SEND.replace("s 9", "s 8"), SENT.replace("s 9", "s 8")], "sent twice"),
        ([SEND, SENT.replace(":info", ":ok")], "ended as"),
        ([SEND.replace("0 9", "nil 9")], "no send"),
        ([SEND.replace(":time 0", ":time 5"), SENT], "time goes back"),
        ([line for line in LINES if FINAL not in line], "never ended"),
        ([line.replace(FINAL, "[[:poll {0 [[1 1]]}]]") for line in LINES], "goes back in 0"),
        ([line.replace("1 [[0 0]]}", "0 []}") for line in LINES], "was not given"),
    ],
)
def test_what_breaks_a_rule_of_the_form_is_found(lines: list[str], found: str) -> None:
    assert any(found in one for one in complaints(lines)), complaints(lines)


def test_the_export_has_one_map_a_line_in_the_order_of_events() -> None:
    history = History()
    history.assign("r", [K])
    history.acknowledge(history.invoke_send("w", K, "a", 5.0), 7, "", 6.0)
    history.unknown(history.invoke_send("w", K, "b", 6.5), "TIMED_OUT", 7.0)
    history.fail(history.invoke_send("w", K, "c", 8.0), "NOT_LEADER", 9.0)
    history.invoke_send("w", K, "d", 9.0)
    history.poll("r", {K: [(7, "a")]}, 9.000000001)
    history.crash("r")
    assert list(export(history)) == [
        "{:process 0 :time 0 :type :invoke :f :assign :value [0]}",
        "{:process 0 :time 0 :type :ok :f :assign :value [0]}",
        "{:process 1 :time 0 :type :invoke :f :send :value [[:send 0 0]]}",
        "{:process 1 :time 1000000000 :type :ok :f :send :value [[:send 0 [7 0]]]}",
        "{:process 1 :time 1500000000 :type :invoke :f :send :value [[:send 0 1]]}",
        "{:process 1 :time 2000000000 :type :info :f :send :value [[:send 0 1]]}",
        "{:process 2 :time 3000000000 :type :invoke :f :send :value [[:send 0 2]]}",
        "{:process 2 :time 4000000000 :type :fail :f :send :value [[:send 0 2]]}",
        "{:process 2 :time 4000000000 :type :invoke :f :send :value [[:send 0 3]]}",
        "{:process 0 :time 4000000001 :type :invoke :f :poll :value [[:poll]]}",
        "{:process 0 :time 4000000001 :type :ok :f :poll :value [[:poll {0 [[7 0]]}]]}",
        "{:process 0 :time 4000000001 :type :invoke :f :crash :value nil}",
        "{:process 0 :time 4000000001 :type :info :f :crash :value nil}",
        "{:process 2 :time 4000000001 :type :info :f :send :value [[:send 0 3]]}",
    ]
