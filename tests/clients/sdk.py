"""Today's Python clients, called from a test: `sdk("assert_fact", entity=...)` is what the client answered, as JSON has it."""

import json
import subprocess
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("driver.py")


class ClientRaised(Exception):
    """What a client raised: the name of its class, and what an HTTP error of theirs carries."""

    def __init__(self, kind: str, status_code: int | None, detail: object, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.status_code, self.detail, self.message = kind, status_code, detail, message


class Driver:
    """The one process in which the clients run; calls follow one another."""

    def __init__(self, python: Path, errors: Path) -> None:
        with errors.open("wb") as said:
            self._process = subprocess.Popen(
                [python, "-I", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
        self._errors = errors

    def send(self, **request: object) -> None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """The answer to the call sent last. Raises ClientRaised."""
        line = self._process.stdout.readline()
        assert line, f"the driver ended:\n{self._errors.read_text()}"
        answer = json.loads(line)
        if "raised" in answer:
            raise ClientRaised(**answer["raised"])
        return answer["result"]

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Sdk:
    """One client, of one kind and credential."""

    def __init__(self, driver: Driver, client: str, **options: object) -> None:
        self._driver, self._client, self._options = driver, client, options

    def __call__(self, method: str, **arguments: object) -> Any:
        self.begin(method, **arguments)
        return self.result()

    def begin(self, method: str, **arguments: object) -> None:
        """Call and do not wait: `result` does, and nothing else may be called before."""
        self._driver.send(client=self._client, options=self._options, method=method, arguments=arguments)

    def result(self) -> Any:
        return self._driver.receive()
