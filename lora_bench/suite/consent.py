"""Code that a suite would run on this machine, and the user's consent to it.

A suite may come from a stranger, so naming code in it is a request and no permission. Code is a metric's script (`hub:NAME`) or
the classes of a base model's repository (`trust_remote_code`). The user allows it on the command line, by its name and its
present hash: `--allow-code NAME@HASH`. Changed code has another hash, and needs a new permission.
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from lora_bench.documents import Key
from lora_bench.errors import BadInput, LoraBenchError, did_you_mean, refuse
from lora_bench.metrics import HUB
from lora_bench.suite.load_suite import Suite
from lora_bench.suite.probe_suite import ProbeSuite
from lora_bench.tasks import Task

OPTION = "--allow-code"


@dataclass(frozen=True)
class Code:
    """Code that a suite would run, such as `hub:./mine`; *version* is the commit, or the sha256 of a script and its imports."""

    kind: str
    name: str
    version: str
    key: Key

    @property
    def permission(self) -> str:
        """Argument that allows it: `NAME@HASH`."""
        return self.name if self.name.endswith(f"@{self.version}") else f"{self.name}@{self.version}"

    @property
    def option(self) -> str:
        """The permission as an option of a command."""
        return f"{OPTION} {shlex.quote(self.permission)}"


def suite_code(suite: Suite | ProbeSuite) -> list[Code]:
    """Return the code that a suite would run, each once. Raise BadInput if a script is missing or cannot be pinned."""
    found: dict[str, Code] = {}
    faults = []
    for index, (task, _) in enumerate(suite.tasks if isinstance(suite, Suite) else ()):
        for name in task.all_metrics:
            if not name.startswith(HUB):
                continue
            from lora_bench.metrics.support.hub_metric import code_hash, script_name

            key: Key = ("tasks", index, "metric" if name == task.metric else "metrics")
            try:
                code = Code("metric", script_name(name), code_hash(name), key)
                found.setdefault(code.permission, code)
            except (LoraBenchError, OSError) as error:
                faults.append(suite.document.fault(key, str(error)))
    for index, entry in enumerate(suite.models):
        if entry.trust_remote_code and entry.revision is not None:
            code = Code("model", entry.model, entry.revision, ("models", index, "trust_remote_code"))
            found.setdefault(code.permission, code)
    refuse(faults)
    return list(found.values())


def check_permissions(given: Iterable[str], suite: Suite | ProbeSuite) -> frozenset[str]:
    """Return the user's permissions for a suite; refuse one for other code, or for code that has changed since."""
    permissions = frozenset(given)
    if not permissions:
        return permissions
    codes = suite_code(suite)
    known = [code.permission for code in codes]
    for permission in sorted(permissions.difference(known)):
        same = next(
            (code for code in codes if permission.rpartition("@")[0] == code.name or permission == code.name), None
        )
        if same is None:
            wants = f"it would run {', '.join(known)}" if known else "it would run none"
            hint = did_you_mean(permission, known)
            raise LoraBenchError(f"the suite {suite.name!r} would not run code {permission!r}{hint} ({wants})")
        changed = "is given without a hash" if permission == same.name else "has changed since you allowed it"
        raise LoraBenchError(f"the code of {same.name} {changed}; read it, and if you trust it give {same.option}")
    return permissions


def require_permission(suite: Suite | ProbeSuite, *, kind: str | None = None) -> None:
    """Refuse a suite that would run code, of this *kind* if given, without permission. Raise BadInput with every option."""
    missing = [code for code in suite_code(suite) if code.permission not in suite.code]
    if any(kind in (None, code.kind) for code in missing):
        raise BadInput(
            suite.document.fault(
                code.key,
                f"the suite would run code of {code.name} on this machine, with your rights; read it, and if you trust it "
                f"give {code.option}",
            )
            for code in missing
        )


def allowing(task: Task, permissions: frozenset[str]) -> Task:
    """Return a task that the permitted scripts may score."""
    allowed: dict[str, str] = {}
    for permission in permissions:
        name, _, version = permission.rpartition("@")
        # The name of a script on the hub contains its commit.
        allowed |= {name: version, permission: version}
    return task.allowing(allowed)
