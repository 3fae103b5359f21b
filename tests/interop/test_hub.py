"""Names on a hub: from the cache of huggingface_hub, or one sentence where neither that nor a network is there."""

import pytest
import torch
from safetensors.torch import save_file

from jepa_pipeline.commands.import_weights import import_weights
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.interop.hub import download
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.weights import load_encoder, read_card

huggingface_hub = pytest.importorskip("huggingface_hub")
CONFIG = EncoderConfig(image_size=12, patch_size=4, embed_dim=24, depth=1, num_heads=2)
REVISION = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\ntags:\n- license\nlicense: cc-by-nc-4.0\n---\n\nlicense: not this\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache of a machine without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def publish(cache, owner, name, weights="model.safetensors"):
    """A repository as a download leaves it in the cache."""
    repository = cache / f"models--{owner}--{name}"
    folder = repository / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(REVISION)
    (folder / "README.md").write_text(CARD)
    torch.manual_seed(0)
    encoder = Encoder(CONFIG)
    (save_file if weights.endswith("safetensors") else torch.save)(encoder.state_dict(), folder / weights)
    return encoder


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("at", ["", "@main", f"@{REVISION}"])
def test_weights_in_the_cache_are_imported_with_their_revision(cache, tmp_path, monkeypatch, weights, at):
    encoder = publish(cache, "facebook", "ijepa_small", weights)
    monkeypatch.chdir(tmp_path)
    folder = import_weights(f"hf:facebook/ijepa_small{at}", "ijepa", given=ImportSettings(num_heads=2))
    card, pixels = read_card(folder), torch.randn(1, 3, 12, 12)
    assert folder.as_posix() == "imported/ijepa_small" and card.source is not None
    assert (card.source.path, card.source.revision) == ("hf:facebook/ijepa_small", REVISION)
    assert card.source.license == "cc-by-nc-4.0" and len(card.source.sha256) == 64
    assert torch.equal(load_encoder(folder)(pixels), encoder.eval()(pixels))


def test_names_of_timm_are_its_repositories(cache):
    publish(cache, "timm", "vit_tiny_patch16_224.augreg_in21k")
    assert download("timm:vit_tiny_patch16_224.augreg_in21k").revision == REVISION
    with pytest.raises(UserError, match=r"no published weights 'vit_tny': did you mean|no published weights 'vit_tny'"):
        download("timm:vit_tny")


@pytest.mark.parametrize("source", ["hf:facebook/nothing", "hf:facebook/nothing@main", "timm:resnet18"])
def test_without_a_network_it_is_one_sentence(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        import_weights(source, "ijepa")
    assert "the hub cannot be reached" in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf:../x", "hf:a b/c"])
def test_what_is_no_name_is_one_sentence(source):
    with pytest.raises(UserError) as refused:
        download(source)
    assert "\n" not in str(refused.value)
