"""Which addresses may be connected to, however they are spelt."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.addresses import (
    CheckedBackend,
    ForbiddenAddress,
    forbidden,
    system_addresses,
)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.192", "168.63.129.16",
        "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254",
        "ff02::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::", "2001:db8::1", "2001:0:a9fe:a9fe::1", "::ffff:0:0", "::127.0.0.1",
    ],
)  # fmt: skip
def test_forbidden_addresses(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert forbidden(address) is None


def test_private_may_be_allowed_metadata_may_not() -> None:
    for address in ("127.0.0.1", "10.0.0.1", "100.64.0.1", "fc00::1", "::1", "::ffff:10.0.0.1"):
        assert forbidden(address, allow_private=True) is None
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "100.100.100.200",
                    "168.63.129.16", "fe80::1", "224.0.0.1", "0.0.0.0"):  # fmt: skip
        assert forbidden(address, allow_private=True)


@given(st.ip_addresses(v=4))
def test_an_address_inside_another_is_judged_as_itself(address: object) -> None:
    assert bool(forbidden(f"::ffff:{address}")) == bool(forbidden(str(address)))


def test_the_system_resolves_numbers() -> None:
    assert system_addresses("127.0.0.1", 80) == ["127.0.0.1"]


def backend(addresses: Sequence[str], inside: bool) -> CheckedBackend:
    return CheckedBackend(time.monotonic() + 5, lambda host, port: addresses, lambda host: inside)


@given(st.lists(st.ip_addresses(), min_size=1, max_size=4), st.booleans())
def test_one_forbidden_address_refuses_the_host(addresses: list[object], inside: bool) -> None:
    told = [str(address) for address in addresses]
    bad = [address for address in told if forbidden(address, inside)]
    if not bad:
        return
    with pytest.raises(ForbiddenAddress, match=r"^host\.example is ") as caught:
        backend(told, inside).connect_tcp("host.example", 80, timeout=0.01)
    assert caught.value.liftable == (forbidden(bad[0], allow_private=True) is None)
