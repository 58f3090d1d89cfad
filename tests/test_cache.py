"""The on-disk cache: what is stored comes back, and nothing that happens to the files can hurt."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapass.cache import MAX_ENTRY_BYTES, Cache, Json, default_folder
from adapass.errors import UsageError

KIND = "region-latency"
KEY: Json = {"content": "abc", "threads": 2}


def only_entry(cache: Cache) -> Path:
    (entry,) = cache.folder.rglob("*.json")
    return entry


def json_values() -> st.SearchStrategy[Json]:
    leaves: st.SearchStrategy[Json] = (
        st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    )

    def grow(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
        return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)

    return st.recursive(leaves, grow, max_leaves=8)


class TestStoring:
    @given(key=json_values(), value=json_values())
    def test_what_is_stored_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, key: Json, value: Json
    ) -> None:
        folder = tmp_path_factory.mktemp("cache")
        Cache(folder).put(KIND, key, value)

        assert Cache(folder).get(KIND, key) == value

    def test_an_unknown_key_is_absent(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, KEY, 1.5)

        assert cache.get(KIND, {"content": "abd", "threads": 2}) is None
        assert cache.get("another-kind", KEY) is None

    def test_the_order_of_a_key_does_not_count(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, {"a": 1, "b": 2}, "stored")

        assert cache.get(KIND, {"b": 2, "a": 1}) == "stored"

    def test_read_only_mappings_and_tuples_are_json_too(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, ("k", MappingProxyType({"a": 1})), MappingProxyType({"b": (1, 2)}))

        assert cache.get(KIND, ["k", {"a": 1}]) == {"b": [1, 2]}

    def test_a_second_put_replaces(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, KEY, 1)
        cache.put(KIND, KEY, 2)

        assert cache.get(KIND, KEY) == 2
        assert cache.info().entries == 1

    def test_none_cannot_be_stored(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="None"):
            Cache(tmp_path).put(KIND, KEY, None)

    @pytest.mark.parametrize("kind", ["", "..", "../up", "a/b", "Capital", "x" * 65, "-x", "a b"])
    def test_a_kind_cannot_leave_the_folder(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a kind of cache entry"):
            Cache(tmp_path).put(kind, KEY, 1)


DAMAGE: tuple[tuple[str, Callable[[bytes], bytes], str], ...] = (
    ("emptied", lambda _: b"", "not JSON"),
    ("cut-short", lambda data: data[: len(data) // 2], "not JSON"),
    ("no-text", lambda _: b"\xff\xfe\x00", "not JSON"),
    ("nested-without-end", lambda _: b"[" * 100_000, "not JSON"),
    ("another-form", lambda _: b"[1]", "not an entry"),
    ("newer", lambda data: data.replace(b'"schema":1', b'"schema":9'), "schema 9"),
    ("another-key", lambda data: data.replace(b'"abc"', b'"abd"'), "another key"),
    ("one-digit", lambda data: data.replace(b"1.25", b"9.25"), "checksum"),
    ("not-a-number", lambda data: data.replace(b"1.25", b"NaN"), "not JSON"),
    ("huge", lambda data: data + b" " * MAX_ENTRY_BYTES, "larger than"),
    ("deep", lambda data: data.replace(b"1.25", b"[" * 900 + b"]" * 900), ""),
)


class TestDamage:
    @pytest.mark.parametrize(("damage", "fault"), [pytest.param(d, f, id=i) for i, d, f in DAMAGE])
    def test_is_reported_ignored_and_mended(
        self,
        damage: Callable[[bytes], bytes],
        fault: str,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, KEY, {"seconds": 1.25})
        entry = only_entry(cache)
        entry.write_bytes(damage(entry.read_bytes()))

        with caplog.at_level(logging.WARNING):
            assert cache.get(KIND, KEY) is None
        assert fault in caplog.text

        cache.put(KIND, KEY, {"seconds": 1.25})
        assert cache.get(KIND, KEY) == {"seconds": 1.25}

    def test_every_flipped_byte_is_noticed(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, KEY, {"seconds": 1.25, "notes": ["quiet"]})
        entry = only_entry(cache)
        data = entry.read_bytes()

        for position in range(len(data)):
            entry.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            assert cache.get(KIND, KEY) is None, position

    def test_a_failed_write_leaves_no_scraps_and_the_old_value(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = Cache(tmp_path)
        cache.put(KIND, KEY, "old")

        def full(_self: Path, _target: Path) -> Path:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with caplog.at_level(logging.WARNING):
            cache.put(KIND, KEY, "new")

        assert "No space left" in caplog.text
        assert cache.get(KIND, KEY) == "old"
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [only_entry(cache).name]

    def test_a_folder_that_cannot_be_made_only_costs_time(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("in the way", encoding="utf-8")
        cache = Cache(blocked)

        with caplog.at_level(logging.WARNING):
            cache.put(KIND, KEY, 1)
            assert cache.get(KIND, KEY) is None
            with cache.locked("measuring"):
                pass
        assert "cannot be written" in caplog.text
        assert "no lock" in caplog.text


class TestInfoAndClear:
    def test_counts_by_kind(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        for key in range(3):
            cache.put("a", key, "x")
        cache.put("b", 0, "y" * 1000)

        info = cache.info()

        assert {kind: found.entries for kind, found in info.kinds.items()} == {"a": 3, "b": 1}
        assert info.entries == 4
        assert info.kinds["b"].size_bytes > 1000
        assert info.size_bytes == sum(path.stat().st_size for path in tmp_path.rglob("*.json"))

    def test_an_absent_cache_is_empty(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "never")

        assert cache.info().entries == 0
        assert cache.clear() == 0

    def test_clears_one_kind_or_all(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        cache.put("a", 0, 1)
        cache.put("a", 1, 1)
        cache.put("b", 0, 1)

        assert cache.clear("a") == 2
        assert cache.get("b", 0) == 1
        assert cache.clear() == 1
        assert cache.info().entries == 0

    def test_removes_scraps_and_leaves_what_is_not_ours(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache")
        cache.put("a", 0, 1)
        folder = only_entry(cache).parent
        scrap, foreign = folder / "x.partial", folder / "thesis.json"
        for path in (scrap, foreign):
            path.write_text("{}", encoding="utf-8")

        assert cache.clear() == 1
        assert not scrap.exists()
        assert foreign.exists()

    def test_never_follows_links_out_of_the_folder(self, tmp_path: Path) -> None:
        other = Cache(tmp_path / "other")
        other.put("a", 0, 1)
        cache = Cache(tmp_path / "cache")
        cache.folder.mkdir()
        (cache.folder / "a").symlink_to(other.folder / "a")
        (cache.folder / "b").mkdir()
        (cache.folder / "b" / "link").symlink_to(only_entry(other).parent)

        assert cache.info().entries == 0
        assert cache.clear() == 0
        assert other.get("a", 0) == 1


class TestFolder:
    def test_the_environment_names_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ADAPASS_CACHE", str(tmp_path / "mine"))

        assert default_folder() == tmp_path / "mine"
        assert Cache().folder == tmp_path / "mine"

    def test_else_it_is_the_users(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("ADAPASS_CACHE", raising=False)

        assert default_folder().name == "adapass"
        assert default_folder().is_absolute()


WRITE_MANY = """
import sys
from pathlib import Path
from adapass.cache import Cache

cache = Cache(Path(sys.argv[1]))
for key in range(30):
    cache.put("region-latency", key, {"key": key, "padding": "x" * 5000})
    found = cache.get("region-latency", key)
    assert isinstance(found, dict) and found["key"] == key
"""


class TestConcurrency:
    def test_processes_never_see_half_an_entry(self, tmp_path: Path) -> None:
        command = [sys.executable, "-W", "error", "-c", WRITE_MANY, str(tmp_path)]
        workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        complaints = [worker.communicate()[1] for worker in workers]

        assert complaints == ["", ""]
        assert [worker.returncode for worker in workers] == [0, 0]
        assert Cache(tmp_path).info().entries == 30
        assert not list(tmp_path.rglob("*.partial"))

    @pytest.mark.skipif(sys.platform == "win32", reason="no file locks there")
    def test_the_lock_lets_one_in_at_a_time(self, tmp_path: Path) -> None:
        events: list[str] = []

        def hold(name: str) -> None:
            with Cache(tmp_path).locked("measuring"):
                events.append(f"{name} in")
                time.sleep(0.02)
                events.append(f"{name} out")

        threads = [threading.Thread(target=hold, args=(str(index),)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(events) == 8
        for entered, left in zip(events[::2], events[1::2], strict=True):
            assert (entered.split()[0], entered.split()[1]) == (left.split()[0], "in")

    def test_locks_are_not_entries(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path)
        with cache.locked("measuring"):
            cache.put(KIND, KEY, 1)

        assert cache.info().entries == 1
        assert cache.clear() == 1


def test_an_entry_is_text_a_person_can_read(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KIND, KEY, {"seconds": 1.25})

    entry = json.loads(only_entry(cache).read_text(encoding="utf-8"))

    assert entry["key"] == KEY
    assert entry["value"] == {"seconds": 1.25}
