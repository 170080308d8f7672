"""Whether somebody answers at a database server's address, before MLflow tries for long."""

import socket

import pytest

from skdtune.tracking_uri import knock
from tests.skdtune.builders import free_port


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql"])
def test_nobody_answers(scheme):
    with pytest.raises(ConnectionRefusedError):
        knock(f"{scheme}://127.0.0.1:{free_port()}/mlflow")


def test_a_password_may_hold_what_an_address_may_not():
    with pytest.raises(ConnectionRefusedError):
        knock(f"postgresql://mlflow:1#[2@127.0.0.1:{free_port()}/mlflow")


def test_somebody_answers():
    with socket.create_server(("127.0.0.1", 0)) as server:
        knock(f"postgresql://mlflow@127.0.0.1:{server.getsockname()[1]}/mlflow")


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql:///mlflow?host=/run/postgresql",
        "postgresql://one:1,two:2/mlflow",
        "postgresql://mlflow@localhost:1/mlflow?host=/run/postgresql",
        "mssql+pyodbc://mlflow@a_data_source",
        "sqlite:///mlflow.db",
        "http://nowhere.invalid:1",
        "databricks",
    ],
)
def test_of_other_addresses_it_does_not_ask(uri):
    knock(uri)
