"""A Dockerfile as one shell script, for machines on which no container engine runs.

Each stage is an overlay over this machine's own files, which stand for those of the base image;
nothing of it outlives the script, which runs in a mount namespace of its own. Only the instructions
that the images here need are known; any other is an error.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

# As in the base image; the machine's own variables are not seen.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What uv and apt-get want to know so as not to wait for a network: all is on the machine already.
OFFLINE = {
    "UV_OFFLINE": "1",
    "UV_LINK_MODE": "copy",
    "UV_CACHE_DIR": "/cache",
    "APT_CONFIG": "/apt.conf",
}


# What becomes a process here ends with the script, however that ends.
ISOLATED = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


@dataclass
class Stage:
    name: str
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})

    @property
    def root(self) -> str:
        return f"$scratch/{self.name}/root"

    def chroot(self, words: list[str], *, more: dict[str, str] | None = None) -> str:
        """A command in the stage, as its instructions run it; with more variables."""
        user, _, group = self.user.partition(":")
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        return self._enter([*become, *words], more or {})

    def confined(self, words: list[str], *, capabilities: list[str]) -> str:
        """The entry point as a container that has just these capabilities."""
        user, _, group = self.user.partition(":")
        bounds = ",".join(["-all", *(f"+{name}" for name in capabilities)])
        become = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        become += ["--no-new-privs", "--inh-caps=-all", f"--bounding-set={bounds}"]
        return self._enter([*become, *self.entrypoint, *words], {})

    def _enter(self, words: list[str], more: dict[str, str]) -> str:
        variables = [f"{name}={value}" for name, value in (self.variables | more).items()]
        return f'chroot "{self.root}" ' + shlex.join(
            ["env", "-i", "-C", self.folder, *variables, *words]
        )


def instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.strip() for line in joined.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]


def build(text: str, context: Path, *, commands: dict[str, Path]) -> tuple[str, dict[str, Stage]]:
    """The script that builds all stages below `$scratch`, and what the stages are.

    `$cache` is uv's. `commands` are what an image that only brings a command would have brought.
    """
    script, stages, current = [_HEAD], dict[str, Stage](), Stage("")
    for name, rest in instructions(text):
        match name:
            case "FROM":
                image, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
                current = stages[name] = Stage(name)
                if name not in commands:
                    assert image.startswith("python:3.11-"), image
                    script.append(f"stage {name}")
            case "COPY":
                script += _copy(rest, current, context, commands)
            case "WORKDIR":
                current.folder = rest
                script.append(f'mkdir -p "{current.root}{rest}"')
            case "ENV":
                current.variables |= dict(word.split("=", 1) for word in shlex.split(rest))
            case "RUN":
                script.append(current.chroot(["sh", "-ec", rest], more=OFFLINE))
            case "USER":
                current.user = rest
            case "ENTRYPOINT":
                current.entrypoint = json.loads(rest)
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"unknown instruction {name}")
    return "\n".join(script) + "\n", stages


def _copy(rest: str, stage: Stage, context: Path, commands: dict[str, Path]) -> list[str]:
    words = shlex.split(rest)
    source = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
    *files, target = words
    place = target if target.startswith("/") else f"{stage.folder}/{target}"
    lines = []
    for file in files:
        if source in commands:
            origin = shlex.quote(str(commands[source]))
        elif source:
            origin = f'"$scratch/{source}/root{file}"'
        else:
            origin = shlex.quote(str(context / file))
        lines.append(f'copy {origin} "{stage.root}{place}"')
    return lines


_HEAD = """\
set -eu
# Of a folder Docker takes what is in it.
copy() {
  mkdir -p "$(dirname "$2x")"
  if [ -d "$1" ]; then mkdir -p "$2"; cp -a "$1/." "$2/"; else cp -a "$1" "$2"; fi
}
mount -t tmpfs -o size=1g scratch "$scratch"
stage() {
  mkdir -p "$scratch/$1/upper" "$scratch/$1/work" "$scratch/$1/root"
  mount -t overlay -o "lowerdir=/,upperdir=$scratch/$1/upper,workdir=$scratch/$1/work" \\
    overlay "$scratch/$1/root"
  mount --rbind /proc "$scratch/$1/root/proc"
  mount --rbind /dev "$scratch/$1/root/dev"
  mkdir "$scratch/$1/root/cache"
  mount --bind "$cache" "$scratch/$1/root/cache"
  echo 'Acquire::Retries "0";' >"$scratch/$1/root/apt.conf"
}
"""
