"""The faults that tests must notice, by what they concern, and how one is put into a copy of the project."""

from tests.support.mutants import commands, data, decisions, driver, store

OF_WORLDS = driver.MUTANTS
OF_TESTS = (*store.MUTANTS, *data.MUTANTS, *decisions.MUTANTS, *commands.MUTANTS)
