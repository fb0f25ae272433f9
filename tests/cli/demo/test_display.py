"""What a person sees of a demo's processes."""

from edged.cli.demo.display import Display


def test_a_demo_that_waits_for_topics_says_so(capsys):
    display = Display(epochs=1, num_training=100, edges=1, num_live=0)

    display.on_line(
        "run vault", {"event": "kafka.topics_missing", "node": "vault", "topics": ["a.requests", "a.epochs"]}
    )

    said = "  run vault waits for topics that it may not create (--topics prints how): a.requests, a.epochs\n"
    assert said in capsys.readouterr().out
