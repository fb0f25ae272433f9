"""The demo on the whole of Fashion-MNIST."""

from edged.adapters.datasets import fashion_mnist
from tests.support.demo import assert_whole, run_demo
from tests.support.requirements import require


async def test_the_full_data_set_is_learnt_in_three_epochs():
    """60,000 images, of which the devices publish some: at least 88 % of the 10,000 test images are told right."""
    if fashion_mnist.full_folder() is None:
        require("the full Fashion-MNIST (Debian: dataset-fashion-mnist)")

    summary = await run_demo("--data", "fashion-mnist", "--epochs", "3", is_forked=False)

    assert_whole(summary, published=600)
    assert summary["test_accuracy"] >= 0.88
