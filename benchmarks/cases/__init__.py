"""What is measured: a module a case, each with `measure(form) -> list[Line]`."""
