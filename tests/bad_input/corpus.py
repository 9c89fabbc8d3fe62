"""All bad inputs."""

from tests.bad_input import fields, images, tables, tars, uid_files, weights
from tests.bad_input.case import Case

CASES: list[Case] = [
    *tars.CASES,
    *images.CASES,
    *fields.CASES,
    *tables.CASES,
    *uid_files.CASES,
    *weights.CASES,
]
