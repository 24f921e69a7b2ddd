#!/bin/sh
# The programs that `make bench` measures dcmpool against, from Debian or Ubuntu; as root.
set -eu
apt-get update -q
apt-get install -q -y --no-install-recommends libgdcm-tools dcmtk parallel
