#!/bin/sh
# Install the commands and their systemd units on this host, as root; nothing is started.
#
# usage: install.sh
set -eu
cd "$(dirname "$0")"
./build.sh /opt/networkpolicys
install -d -m 0755 /etc/networkpolicys
for name in apiserver enforcer; do
  install -m 0644 "systemd/netpol-$name.service" /etc/systemd/system/
  # What an operator has written stays.
  [ -e "/etc/networkpolicys/$name.env" ] ||
    install -m 0640 "systemd/$name.env" /etc/networkpolicys/
done
! [ -d /run/systemd/system ] || systemctl daemon-reload
