# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The head of a cluster of Ray: whether it is there still."""

from __future__ import annotations

import socket
import time

__all__ = ["Head"]

_SECONDS_TO_ANSWER = 2.0


class Head:
    """Watches the head of a cluster from outside of Ray, which ends a process that lost it.

    Parameters
    ----------
    address
        Host and port of the head's service.
    patience
        How many seconds it may be silent. Ray's own patience is 60: then it ends the process.
    """

    def __init__(self, address: str, patience: float = 20.0) -> None:
        host, _, port = address.rpartition(":")
        self.address, self._patience = address, patience
        self._place = host.strip("[]"), int(port)
        self._watched = self._answers()  # it need not be in reach: of a client of Ray it is not
        self.lost = False
        """It was silent for too long."""

    def require(self) -> None:
        """Wait for the head where it is silent.

        Raises
        ------
        ConnectionError
            Where it stays so.
        """
        if not self._watched or self._answers():
            return
        deadline = time.monotonic() + self._patience
        while time.monotonic() < deadline:
            time.sleep(0.5)
            if self._answers():
                return
        self.lost = True
        raise ConnectionError(
            f"ray: the head of the cluster, {self.address}, does not answer any more; what is done "
            "is kept, and the sweep can be resumed on another cluster"
        )

    def _answers(self) -> bool:
        try:
            socket.create_connection(self._place, _SECONDS_TO_ANSWER).close()
        except OSError:
            return False
        return True
