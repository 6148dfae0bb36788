#!/bin/sh
# User data of the instances on which task-definition-daemon.json runs: Docker would make the two
# directories root's, and hydrant runs as 65532. /run is empty after each start of the instance.
set -eu
cat > /etc/tmpfiles.d/hydrant.conf <<'END'
d /run/hydrant     0755 65532 65532
d /var/lib/hydrant 0700 65532 65532
END
systemd-tmpfiles --create /etc/tmpfiles.d/hydrant.conf
