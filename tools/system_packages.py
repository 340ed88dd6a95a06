"""Install the Debian packages that some tests need, or print the line that does.

They are few: a browser that opens the report, a compiler for native kernels, and iproute2 for network namespaces.
"""

import os
import shutil
import subprocess

WANTED = {"chromium": "chromium", "g++": "g++", "ip": "iproute2"}


def main() -> None:
    """Install what is missing where this is Debian and we are root; else say how, and go on."""
    packages = sorted(package for command, package in WANTED.items() if not shutil.which(command))
    if not packages:
        return
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"some tests will skip; to run them too:  sudo {line}")
        return
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update -qq", line):
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"some tests will skip: {command} failed: {done.stderr.strip()[-300:]}")
            return


if __name__ == "__main__":
    main()
