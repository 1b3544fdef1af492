"""Checks docker/ where there is no engine: the compose file's references, the image's build steps.

Reads compose.yaml as YAML, checks that services, ports, variables, volumes and files it names
exist, then runs the cargo step of the Dockerfile's build stage, as written, in this repository,
and starts the program it made as the image would.

  tests/docker.py            everything
  tests/docker.py compose    without the build
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import yaml

REPO = Path(__file__).resolve().parent.parent
DOCKERFILE = REPO / "docker" / "Dockerfile"
COMPOSE = REPO / "docker" / "compose.yaml"
COUNT = 0


def check(claim, holds):
    global COUNT
    COUNT += 1
    if not holds:
        sys.exit(f"docker: not so: {claim}")


def instructions():
    """The Dockerfile as (stage, word, rest), continued lines joined, comments dropped."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    stage, found = -1, []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if not line.strip():
            continue
        word, rest = line.split(None, 1)
        stage += word == "FROM"
        found.append((stage, word, rest.strip()))
    return found


def of(word, stage=None):
    return [rest for at, name, rest in instructions() if name == word and stage in (None, at)]


def check_dockerfile():
    check("two stages", len(of("FROM")) == 2)
    rust = re.search(r'^rust-version = "(.*)"', (REPO / "Cargo.toml").read_text(), re.M)[1]
    check(f"the build stage has Rust {rust}, as Cargo.toml asks", f"rust:{rust}" in of("FROM", 0)[0])
    check("both stages are of one Debian release", all("bookworm" in image for image in of("FROM")))
    for rest in of("COPY", 0):
        for source in shlex.split(rest)[:-1]:
            check(f"COPY {source} names something that exists", (REPO / source).exists())
    copied = shlex.split(" ".join(rest.rsplit(None, 1)[0] for rest in of("COPY", 0)))
    for path in re.findall(r'^path = "(.*)"', (REPO / "Cargo.toml").read_text(), re.M):
        check(f"{path}, a target in Cargo.toml, is copied", any(f"{path}/".startswith(f"{one}/") for one in copied))
    check("the program is all that leaves the build", of("COPY", 1) == [
        "--from=build /src/target/release/forebay /usr/local/bin/forebay"])
    check("it does not run as root", of("USER", 1) not in ([], ["root"], ["0"]))
    check("all ports are exposed", of("EXPOSE", 1) == ["6432 6433 9127"])
    check("the program is the entry point", "/usr/local/bin/forebay" in of("ENTRYPOINT", 1)[0])


def published(port):
    """Host and container port of "address:host:container"."""
    parts = str(port).split(":")
    return parts[-2], parts[-1]


def check_compose():
    text = COMPOSE.read_text()
    compose = yaml.safe_load(text)
    services = compose["services"]
    check("services are forebay, postgres, redis", sorted(services) == ["forebay", "postgres", "redis"])
    hosts = []
    for name, service in services.items():
        check(f"{name} has an image or is built", ("image" in service) != ("build" in service))
        check(f"{name} has a health check", bool(service.get("healthcheck", {}).get("test")))
        for other, condition in service.get("depends_on", {}).items():
            check(f"{name} depends on a service that exists: {other}", other in services)
            check(f"{name} waits until {other} is healthy", condition["condition"] == "service_healthy")
        ports = [published(port)[0] for port in service.get("ports", [])]
        check(f"{name} publishes on this machine only", all(str(p).startswith("127.0.0.1:") for p in service.get("ports", [])))
        hosts += ports
        for config in service.get("configs", []):
            check(f"config {config['source']} exists", config["source"] in compose.get("configs", {}))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            check(f"volume {source} exists", source in compose.get("volumes", {}) or (COMPOSE.parent / source).exists())
    check("no host port is published twice", len(hosts) == len(set(hosts)))
    forebay = services["forebay"]
    build = forebay["build"]
    check("the Dockerfile is where the build looks", (COMPOSE.parent / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE)
    exposed = " ".join(of("EXPOSE")).split()
    check("published ports are exposed ones", sorted(published(p)[1] for p in forebay["ports"]) == exposed)
    for port in exposed:
        check(f"port {port} is listened on beyond the container", any(word.endswith(f"0.0.0.0:{port}") for word in forebay["command"]))
    for host in re.findall(r"(?:@|://)([a-z]+):\d+", " ".join(forebay["command"])):
        check(f"{host} in the command is a service", host in services)
    targets = [config["target"] for config in forebay["configs"]]
    for path in re.findall(r"--config=(\S+)", " ".join(forebay["command"])):
        check(f"{path} is there in the container", path in targets)
    url = forebay["command"][0]
    environment = services["postgres"]["environment"]
    check("user and database of the URL are PostgreSQL's", url.startswith(f"postgres://{environment['POSTGRES_USER']}:")
          and url.endswith(f"/{environment['POSTGRES_DB']}"))
    check("the URL's password is PostgreSQL's", environment["POSTGRES_PASSWORD"] in url)
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        check(f"${name} has a default or must be set", rest.startswith((":?", ":-")))
    check("no password is written down", not re.search(r"PASSWORD: [^$\s]", text))


def run_build():
    """The build stage's cargo step, in the repository. apt steps belong to the image alone."""
    steps = [step for step in of("RUN", 0) if step.startswith("cargo ")]
    check("one cargo step", len(steps) == 1)
    print(f"docker: {steps[0]}", flush=True)
    subprocess.run(["bash", "-euo", "pipefail", "-c", steps[0]], cwd=REPO, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
    program = target / "release" / "forebay"
    check("the program is where the image copies it from", program.is_file())
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    check("it starts and says what it is", version.returncode == 0 and "forebay" in version.stdout.lower())
    listed = subprocess.run([program, *shlex.split(of("CMD", 1)[0].strip("[]").replace(",", " "))],
                            capture_output=True, text=True, timeout=10)
    check("the image's default command works", listed.returncode == 0)
    for word in yaml.safe_load(COMPOSE.read_text())["services"]["forebay"]["command"][1:]:
        option = word.split("=")[0]
        check(f"{option}, used by compose, is an option", option in listed.stdout)


check_dockerfile()
check_compose()
if sys.argv[1:] != ["compose"]:
    run_build()
print(f"docker: {COUNT} checks hold")
