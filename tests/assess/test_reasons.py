"""Reasons are the columns that speak most against an applicant, in words that people can check."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.assess.reasons import in_words, number, reason_codes
from trainer.assess.usual import usual

AMOUNTS = usual(np.array([1000.0, 1500.0, 2300.0, 3000.0, 4000.0, np.nan]), np.zeros(6, bool))
ACCOUNTS = usual(np.array(["little", "rich", "little", None, "little"], object), np.array([True, False, True, True, False]))


def test_what_is_usual():
    assert AMOUNTS == {"median": 2300.0, "low": 1500.0, "high": 3000.0}
    assert {"people": {"little": 3, "rich": 1}, "defaults": {"little": pytest.approx(2 / 3), "rich": 0.0}, "all": 0.6} == ACCOUNTS
    many = usual(np.array([str(i // 2) for i in range(200)] + ["often"] * 5, object), np.zeros(205, bool))
    assert len(many["people"]) == 50
    assert many["people"]["often"] == 5


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("credit_amount", 9000.0, "the credit amount, 9,000, is higher than usual (median 2,300, half of all between 1,500 and 3,000)"),
        ("credit_amount", 36.5, "the credit amount, 36.5, is lower than usual (median 2,300, half of all between 1,500 and 3,000)"),
        ("credit_amount", None, "the credit amount is not stated"),
        (
            "credit_amount",
            3000.0,
            "the credit amount, 3,000, is not unusual (half of all are between 1,500 and 3,000), and counts against this applicant with all the rest",
        ),
        ("account", "little", "“little” as account: of 3 such applicants 66.7% defaulted, of all 60.0%"),
        ("account", "strange", "“strange” as account, which too few before stated to compare"),
    ],
)
def test_in_words(column, value, words):
    assert in_words(column, value, AMOUNTS if column == "credit_amount" else ACCOUNTS) == words


def test_the_worst_come_first_and_what_speaks_for_an_applicant_does_not_come():
    applicant = {"credit_amount": 9000.0, "account": "little", "age": 20.0, "duration": 12.0}
    ages = {"median": 40.0, "low": 30.0, "high": 50.0}
    known = {"credit_amount": AMOUNTS, "account": ACCOUNTS, "age": ages, "duration": ages}
    found = reason_codes({"account": 0.5, "credit_amount": 1.5, "age": -3.0, "duration": 0.0}, applicant, known)
    assert [(reason.column, reason.share) for reason in found] == [("credit_amount", 0.75), ("account", 0.25)]
    assert found[0].words == in_words("credit_amount", 9000.0, AMOUNTS)
    assert [reason.column for reason in reason_codes({"account": 0.5, "credit_amount": 1.5}, applicant, known, most=1)] == ["credit_amount"]
    assert reason_codes({"account": -0.5, "age": 0.0}, applicant, known) == []


@pytest.mark.parametrize(
    ("value", "words"), [(9000.0, "9,000"), (12.0, "12"), (36.54321, "36.54"), (-0.01234, "-0.01234"), (float("nan"), "–"), (12345.6, "12,346")]
)
def test_numbers(value, words):
    assert number(value) == words
