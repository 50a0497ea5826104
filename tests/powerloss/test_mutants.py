"""The instruments can tell: each mutant is caught by each instrument that must catch it, and the program as it is, built the same way, by none."""

import pytest

import mutants

CASES = [(mutant.name, instrument) for mutant in mutants.MUTANTS for instrument in mutant.instruments]


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_stands_in_the_sources_once(mutant):
    assert mutants.apply_edits(mutants.read_sources(), mutant) != mutants.read_sources()


def test_a_text_that_no_longer_fits_is_refused():
    edit = mutants.Edit("src/main.c", "this text is nowhere", "")
    with pytest.raises(mutants.Unfit):
        mutants.apply_edits(mutants.read_sources(), mutants.Mutant("unfit", (edit,), ()))
    edit = mutants.Edit("src/main.c", "a", "")
    with pytest.raises(mutants.Unfit):
        mutants.apply_edits(mutants.read_sources(), mutants.Mutant("unfit", (edit,), ()))


@pytest.mark.parametrize("instrument", mutants.instruments(), ids=str)
def test_the_program_as_it_is_passes(instrument):
    assert instrument.run(mutants.build(), False, mutated=False) == []


@pytest.mark.parametrize("name, instrument", CASES, ids=lambda value: str(value))
def test_a_mutant_is_caught(name, instrument):
    found = instrument.run(mutants.build(mutants.by_name(name)), False)
    assert found, f"{name} got away from {instrument}"
