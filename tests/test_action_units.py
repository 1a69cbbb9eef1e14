import dataclasses

import pytest

from mbert import ManifestError
from mbert.manifests.labels.action_units import CD6ME_UNITS, ActionUnit, parse_action_units, unit_targets


def written(text):
    """The units of a cell as short words: kind unless AU, side, number, intensity, `?`."""
    return [
        f"{unit.kind if unit.kind != 'AU' else ''}{unit.side or ''}{unit.number}{unit.intensity or ''}"
        f"{'?' if unit.is_uncertain else ''}"
        for unit in parse_action_units(text)
    ]


def test_a_unit_has_its_parts():
    assert parse_action_units("L12B") == (ActionUnit(number=12, side="L", intensity="B"),)
    assert parse_action_units("4?") == (ActionUnit(number=4, is_uncertain=True),)


@pytest.mark.parametrize("cell", [4, 4.0, "4", "4.0", " AU4 ", "au 4"])
def test_numbers_and_texts_are_the_same_unit(cell):
    assert written(cell) == ["4"]


@pytest.mark.parametrize("cell", [None, float("nan"), "", "  ", "?", "/", "-", "nan", "None", 0])
def test_a_cell_without_a_unit_gives_none(cell):
    assert parse_action_units(cell) == ()


@pytest.mark.parametrize("cell", ["4+11", "4,11", "4，11", "4 + 11", "4, 11", "4＋11", "4;11", "AU4+AU11", "+4++11+"])
def test_separators_also_full_width(cell):
    assert written(cell) == ["4", "11"]


def test_a_side_belongs_to_its_own_unit():
    assert written("R4,5") == ["R4", "5"]
    assert written("L10+R12+T10+B25") == ["L10", "R12", "T10", "B25"]


def test_asymmetric_and_both_sides_name_no_side():
    assert written("A12") == ["12"]
    assert written("L/R14") == ["14"]


def test_asymmetric_and_left_is_left():
    assert written("A/L12") == ["L12"]


def test_intensities():
    assert written("12A+4E") == ["12A", "4E"]


def test_of_two_intensities_the_lower_is_kept():
    assert written("10A/B") == ["10A"]
    assert written("10B/A") == ["10A"]


def test_units_joined_by_or_are_uncertain():
    assert written("L12 or L14") == ["L12?", "L14?"]
    assert written("R14A or 17A or 24A") == ["R14A?", "17A?", "24A?"]
    assert written("12or14") == ["12?", "14?"]


def test_or_joins_its_neighbours_only():
    assert written("4+12 or 14+17") == ["4", "12?", "14?", "17"]


def test_or_in_brackets_spares_what_is_outside():
    assert written("(R6 or R12)+R15") == ["R6?", "R12?", "R15"]
    assert written("4+(6+12 or 7)") == ["4", "6?", "12?", "7?"]
    assert written("4 or (6+12)+17") == ["4?", "6?", "12?", "17"]


def test_brackets_alone_say_nothing():
    assert written("(4)+7") == ["4", "7"]


def test_a_slash_between_units_is_an_or():
    assert written("4/7+12") == ["4?", "7?", "12"]
    assert written("10A/L12") == ["10A?", "L12?"]


def test_a_question_mark_makes_its_unit_uncertain():
    assert written("4+12?") == ["4", "12?"]
    assert written("?12+4") == ["12?", "4"]
    assert written("12 (?)+4") == ["12?", "4"]


def test_a_question_mark_alone_is_no_unit():
    assert written("4+?") == ["4"]


def test_a_reflex_is_uncertain():
    assert written("7D+ref(43)") == ["7D", "43?"]


def test_a_static_unit_is_dropped():
    assert written("AU4(k)+L7") == ["L7"]
    assert written("4B (k), 12") == ["12"]


def test_descriptors_and_head_movements_are_no_action_units():
    assert written("12+AD38+M58") == ["12", "AD38", "M58"]


@pytest.mark.parametrize("cell", ["smile", "4+blink", "4.5", "1225", "4+L", "12F"])
def test_what_cannot_be_read_is_refused(cell):
    with pytest.raises(ManifestError, match=r"cannot be read from .*; write them as 4\+L10\+12B"):
        parse_action_units(cell)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    action_units: str | None
    dataset: str = "casme2"
    subject: str | None = "casme2/sub01"
    sample: str | None = "EP02_01f"
    emotion: str | None = None
    objective_class: str | None = None


def test_targets_hold_certain_units_of_any_side_and_intensity():
    cells = ["4+L10", "R12B+M12", "L12 or L14", "AD17+17?", "(R6 or R12)+R15", "?"]
    targets = unit_targets([Expression(action_units=cell) for cell in cells], (4, 10, 12, 15, 17))
    assert targets.dtype == bool
    assert targets.tolist() == [
        [True, True, False, False, False],
        [False, False, True, False, False],
        [False] * 5,
        [False] * 5,
        [False, False, False, True, False],
        [False] * 5,
    ]


def test_targets_are_the_units_of_the_six_datasets_by_default():
    targets = unit_targets([Expression(action_units="+".join(str(unit) for unit in CD6ME_UNITS))])
    assert targets.shape == (1, 12)
    assert targets.all()


def test_a_sample_without_annotated_units_has_no_target():
    with pytest.raises(ManifestError, match="sample EP02_01f of casme2/sub01 has no action units; leave it out"):
        unit_targets([Expression(action_units=None)])
