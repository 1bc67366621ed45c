"""People who were there before the directory are found by their names, too."""

from __future__ import annotations

from importlib import resources

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.contract.test_migrations import empty_url, engine_for
from tmad.storage.database import migrate
from tmad.storage.people import folded

__all__ = ["empty_url"]  # a fixture

PEOPLE = {
    "alice": "Alice  Maria ÉXAMPLE",
    "bob": "",
    "ünal": "\uff35nal Straße",
    "x": "One\u00a0Two",
}


@pytest.mark.usefixtures("dialect")
def test_schema_0003_finds_the_people_of_0002(empty_url: str) -> None:
    migrate(empty_url)
    engine = engine_for(empty_url)
    config = Config()
    scripts = resources.files("tmad.storage.migrations")
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    metadata = sa.MetaData()
    with engine.begin() as connection:
        # As far back as it takes: migrations go forward only.
        metadata.reflect(connection)
        metadata.drop_all(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        people = sa.Table("people", sa.MetaData(), autoload_with=connection)
        assert "cn_key" not in people.c
        connection.execute(
            people.insert(),
            [
                {"tenant": "default", "name": name, "full_name": full_name, "mail": "",
                 "phone": "", "groups": "[]", "source": "local", "created_at": 1, "updated_at": 1}
                for name, full_name in PEOPLE.items()
            ],
        )  # fmt: skip
    migrate(empty_url)
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT name, cn_key, sn_key FROM people")).all()
    engine.dispose()
    assert {name: cn_key for name, cn_key, _ in found} == {
        name: folded(full_name or name) for name, full_name in PEOPLE.items()
    }
    assert {sn_key for _, _, sn_key in found} == {"éxample", "bob", "strasse", "two"}
