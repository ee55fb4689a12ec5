"""Lost packets become words: at once when it begins, then seldom, and never twice the same ones."""
from __future__ import annotations

from lbq.losses import DROPPED, PASSED, QUIET_SECONDS, LossWatch, queue_counters
from lbq.outcomes import COUNTED


def kinds(found):
    return [(kind, packets) for kind, packets, _ in found]


def test_the_first_loss_is_told_at_once():
    watch = LossWatch()

    assert watch.warnings({"dropped_no_server": 0}, 0.0) == []
    assert watch.warnings({"dropped_no_server": 3}, 1.0) == [
        ("dropped_no_server", 3, "3 packets lost: no real server can take the connection "
                                 "(dropped_no_server, 3 in all)")]


def test_the_same_loss_is_told_once():
    watch = LossWatch()
    watch.warnings({"queue_dropped": 3}, 0.0)

    assert watch.warnings({"queue_dropped": 3}, 100.0) == []


def test_a_loss_that_goes_on_is_told_together_after_a_while():
    watch = LossWatch()
    watch.warnings({"queue_dropped": 3}, 0.0)

    assert watch.warnings({"queue_dropped": 5}, QUIET_SECONDS - 1) == []
    assert kinds(watch.warnings({"queue_dropped": 9}, QUIET_SECONDS)) == [("queue_dropped", 6)]


def test_one_kind_does_not_silence_another():
    watch = LossWatch()
    watch.warnings({"queue_dropped": 3}, 0.0)

    assert kinds(watch.warnings({"queue_dropped": 4, "user_dropped": 1}, 1.0)) == [("user_dropped", 1)]


def test_when_the_last_packet_of_each_kind_was_lost():
    watch = LossWatch()
    watch.warnings({"queue_dropped": 3}, 0.0)
    watch.warnings({"queue_dropped": 4, "user_dropped": 1}, 1.0)
    watch.warnings({"queue_dropped": 4, "user_dropped": 1, "dropped_ttl": 0}, 7.0)

    assert watch.seconds_since(8.0) == {"queue_dropped": 7.0, "user_dropped": 7.0}


def test_every_reason_that_the_director_counts_has_words():
    counted = {name for name in COUNTED if name.startswith(("dropped_", "passed_")) or "_errors" in name}

    assert counted == {*DROPPED, *PASSED} - {"queue_dropped", "user_dropped"}


def test_the_kernels_columns_are_read_for_our_queue(tmp_path):
    file = tmp_path / "nfnetlink_queue"
    file.write_text("    0  17261     2 2 65531     4     5        6  1\n"
                    "    7  17262    12 2 65531    14    15       16  1\n")

    assert queue_counters([7], file) == (12, 14, 15)
    assert queue_counters(range(8), file) == (14, 18, 20)
    assert queue_counters([8], file) is None
    assert queue_counters([7], tmp_path / "no kernel module") is None
