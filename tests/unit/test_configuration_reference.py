"""What the documents say about settings is what the code has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from tmad.cli.run import settings_reference
from tmad.config import NodeSettings
from tmad.daemon import section_models

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "conf" / "tmad.toml"


def test_the_reference_is_what_the_models_say() -> None:
    """``tmad check-config --reference > docs/configuration.md`` brings it up to date."""
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_reference()


def uncommented() -> str:
    """Return the sample with every setting in force."""
    return re.sub(r"(?m)^# (\[|\w+ = )", r"\1", SAMPLE.read_text())


def test_the_sample_shows_every_setting(tmp_path: Path) -> None:
    tree = tomllib.loads(uncommented())
    models = section_models()
    for name, setting in NodeSettings.model_fields.items():
        if name == "protocols":
            continue
        annotation = setting.annotation
        assert isinstance(annotation, type)
        assert set(tree[name]) == set(annotation.model_fields), name
    for name, model in models.items():
        assert set(tree["protocols"][name]) == set(model.model_fields), name


def test_the_sample_shows_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "tmad.toml"
    path.write_text(SAMPLE.read_text())
    default = NodeSettings.load(path, section_models())
    path.write_text(uncommented())
    shown = NodeSettings.load(path, section_models())

    for name in ("listen", "workers", "log", "limits"):
        assert getattr(shown, name) == getattr(default, name)
    for name, model in section_models().items():
        assert shown.protocol(name, model) == default.protocol(name, model)
    assert shown.keyring.model_copy(update={"pkcs11": None}) == default.keyring
