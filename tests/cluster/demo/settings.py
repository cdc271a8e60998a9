"""What the environment asks of the demo. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_RECORDS = 200_000
ROLES = ("metadata", "coordinator", "broker")
NOBODY = "nobody"
TAMPERS = ("drop", "duplicate", "swap")


class SettingsError(ValueError):
    """A variable has a value that means nothing; the message is one plain sentence."""


@dataclass(frozen=True)
class Settings:
    """See ``make help`` and the README."""

    # How many records to ship (RECORDS).
    records: int = DEFAULT_RECORDS
    # Log files to ship (LOGS); empty: the cluster's own logs and the machine's dpkg.log.
    logs: tuple[str, ...] = ()
    # Leave the cluster running at the end (KEEP).
    keep: bool = False
    # Roles of which a node is killed while the demo works (KILL), of brokers the one that leads
    # partition 0.
    kill: tuple[str, ...] = ("broker",)
    # How to spoil seven of the records read (DEMO_TAMPER); empty: not at all.
    tamper: str = ""

    @property
    def excuse_redelivery(self) -> bool:
        """True if an offset may be delivered again: a coordinator was killed."""
        return "coordinator" in self.kill


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read RECORDS, LOGS, KEEP, KILL and DEMO_TAMPER. Raises SettingsError."""
    records = environment.get("RECORDS") or str(DEFAULT_RECORDS)
    if not records.isdigit() or int(records) < 1:
        raise SettingsError(f"RECORDS={records} is not a number of records")
    victims = environment.get("KILL") or ",".join(Settings.kill)
    kill = tuple(part.strip() for part in victims.split(",") if part.strip())
    if kill == (NOBODY,):
        kill = ()
    for role in kill:
        if role not in ROLES:
            raise SettingsError(
                f"KILL={role} is unknown: name any of {', '.join(ROLES)}, or {NOBODY}"
            )
    tamper = environment.get("DEMO_TAMPER", "")
    if tamper and tamper not in TAMPERS:
        raise SettingsError(f"DEMO_TAMPER={tamper} is unknown: there are {', '.join(TAMPERS)}")
    return Settings(
        records=int(records),
        logs=tuple(environment.get("LOGS", "").split()),
        keep=environment.get("KEEP", "") not in ("", "0"),
        kill=kill,
        tamper=tamper,
    )
