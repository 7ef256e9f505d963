"""Models that a group offers: looked at, fetched and chosen in the panel."""

from __future__ import annotations

from acting import idle
from serving import passed_on, served

from GEDGANLib.exchange.model_index import write_index


def test_a_model_of_an_index_is_fetched_and_chosen(panel, trained_model, tmp_path):
    from GEDGANPanel import places

    shelf = tmp_path / "shelf"
    shelf.mkdir()
    passed_on(trained_model, shelf / "heads.safetensors")
    write_index(shelf)
    ui = panel.ui
    assert not ui.indexButton.isEnabled() and "address" in ui.indexButton.toolTip and ui.fetchButton.isHidden()
    with served(shelf) as address:
        ui.indexEdit.text = f" {address}/index.json "
        assert ui.indexButton.isEnabled()
        ui.indexButton.click()
        assert panel.tasks.name == "index" and ui.indexButton.text == "Stop"
        idle(panel)
        assert "offers 1 model" in ui.messageLabel.text and ui.offeredCombo.itemText(0).startswith("heads (")
        assert "test cohort" in ui.offeredCombo.toolTip
        ui.fetchButton.click()
        idle(panel)
        path = places.base_folder() / "models" / "heads.safetensors"
        assert (
            path.read_bytes() == (shelf / "heads.safetensors").read_bytes()
            and panel.synthesize_section.card.path == path
        )
        assert ui.modelCombo.itemText(ui.modelCombo.currentIndex) == "heads"
        ui.fetchButton.click()  # a second time: its name is taken
        idle(panel)
        assert "A model heads is in" in ui.messageLabel.text
        (shelf / "heads.safetensors").write_bytes(b"another file")
        path.unlink()
        ui.fetchButton.click()
        idle(panel)
        assert "SHA-256" in ui.messageLabel.text and not path.exists()
    ui.indexEdit.text = "http://example.org/index.json"
    assert ui.fetchButton.isHidden() and panel.index_section.chosen() is None
    ui.indexButton.click()
    idle(panel)
    assert "no https address" in ui.messageLabel.text and ui.offeredCombo.count == 0
    assert places.setting("GEDGAN/index").endswith("/index.json")  # the one that answered, for the next time
