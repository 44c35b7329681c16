"""Names as MLflow takes them, and addresses without their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.tracking import is_redacted, redact_uri
from gfn_ray.tracking.address import redact_text
from gfn_ray.tracking.names import key as mlflow_key


@given(st.text())
def test_mlflow_takes_every_name_that_we_make(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    _validate_metric_name(mlflow_key(name))
    _validate_param_name(mlflow_key(name))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("policy/mismatch_kl", "policy/mismatch_kl"),
        ("Var(log R/T)", "Var_log R/T_"),
        ("/a//b/", "a/b"),
        ("../x", "__/x"),
        (".", "_"),
        ("", "_"),
    ],
)
def test_names_stay_readable(name: str, key: str) -> None:
    assert mlflow_key(name) == key


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("HTTPS://secret@host", "HTTPS://***@host"),
        ("postgresql+psycopg://me:se/cr@et@host/db", "postgresql+psycopg://***@host/db"),
        ("mysql://h/db?user=me&password=secret&x=1", "mysql://h/db?user=me&password=***&x=1"),
        ("https://h/?access_token=secret", "https://h/?access_token=***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://me:it's5ecret@host", "http://***@host"),
        ('http://me:"secret"@host', "http://***@host"),
        ("http://me:a secret@host", "http://***@host"),
        ("mysql://h/db?password=a secret&x=1", "mysql://h/db?password=***&x=1"),
    ],
)
def test_secrets_in_an_address_are_not_shown(uri: str, shown: str) -> None:
    assert redact_uri(uri) == shown
    assert redact_uri(shown) == shown
    assert is_redacted(shown) == (shown != uri)
    assert redact_text(f"cannot reach {uri} now", uri) == f"cannot reach {shown} now"


def test_secrets_in_a_text_with_addresses_are_not_shown() -> None:
    text = "neither http://me:secret@host nor 'http://h/?token=secret' answers, m@x asks"
    shown = "neither http://***@host nor 'http://h/?token=*** answers, m@x asks"
    assert redact_text(text) == shown
