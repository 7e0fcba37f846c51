"""A real redis-server of a test's own: started, killed, paused, restarted from whatever data the test says."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from tests.rig.ports import free_port
from tests.rig.process import Process


class RedisServer:
    """One redis-server on a loopback port that it keeps through restarts, with its own folder.

    Nothing is persisted unless `options` says so (`{"appendonly": "yes"}`, `{"save": "60 1"}`) or a test calls `save`.
    `options` are redis.conf's names; `acl` are lines of an ACL file (`user edge on >secret ...`);
    leave the user `default` alone there, the methods here are it. A server that is to join a
    Redis Cluster is one with `{"cluster-enabled": "yes"}`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Mapping[str, str] | None = None,
        acl: Sequence[str] = (),
        program: str = "redis-server",
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.data = directory / "data"
        self.data.mkdir(parents=True)
        self._snapshots = 0
        self.process = Process([program, directory / "redis.conf"], log=directory / "redis.log", cwd=directory)
        self._write_config(options or {}, acl)

    def __repr__(self) -> str:
        return f"<RedisServer :{self.port} {self.process!r}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its address, as `--bus` takes it."""
        return f"redis://127.0.0.1:{self.port}"

    def client(self, *, username: str | None = None, password: str | None = None, timeout_s: float = 30) -> redis.Redis:
        """A new client, for the caller to close. Never retries: a test wants to see what happens."""
        return redis.Redis(
            port=self.port,
            username=username,
            password=password,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def start(self) -> Self:
        """Start it on the data that is there, and wait until it has loaded them and answers."""
        self.process.start()
        self.process.wait_for(self._answers, what="PONG")
        return self

    def stop(self) -> None:
        """SIGTERM: it saves, if `options` has a `save` line, and ends."""
        self.process.resume()
        self.process.terminate()

    def kill(self) -> None:
        """SIGKILL: it keeps what is on disk and nothing else. Harmless when it is not running."""
        self.process.kill()

    def restart(self, *, snapshot: Path | None = None, empty: bool = False) -> None:
        """Start it again (killing it first where it runs): on the data on disk, on a snapshot of `save`, or on nothing."""
        self.kill()
        if empty or snapshot is not None:
            shutil.rmtree(self.data)
            self.data.mkdir()
        if snapshot is not None:
            shutil.copy2(snapshot, self.data / "dump.rdb")
        self.start()

    def save(self) -> Path:
        """SAVE, and return a copy of the data that `restart(snapshot=...)` takes, however much was written since."""
        with contextlib.closing(self.client()) as client:
            client.save()
        self._snapshots += 1
        return Path(shutil.copy2(self.data / "dump.rdb", self.directory / f"snapshot-{self._snapshots}.rdb"))

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    def flush(self) -> None:
        """FLUSHALL, and forget scripts and the statistics too: as good as new for the next test."""
        with contextlib.closing(self.client()) as client:
            client.flushall()
            client.script_flush()
            client.config_resetstat()

    def _answers(self) -> bool:
        with contextlib.closing(self.client(timeout_s=1)) as client:
            try:
                return bool(client.ping())
            except redis.BusyLoadingError:
                return False
            except (redis.AuthenticationError, NoPermissionError):
                return True  # It is up; the test's ACL does not let us in.
            except (redis.ConnectionError, redis.TimeoutError):
                return False

    def _write_config(self, options: Mapping[str, str], acl: Sequence[str]) -> None:
        config = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.data),
            "save": '""',
            "daemonize": "no",
            **options,
        }
        if acl:
            users = self.directory / "users.acl"
            users.write_text("".join(f"{line}\n" for line in acl))
            config["aclfile"] = str(users)
        (self.directory / "redis.conf").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
