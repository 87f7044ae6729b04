# The default of --data-dir for people who are logged in.
[ -r /etc/pureboot-agent.conf ] && . /etc/pureboot-agent.conf && export PUREBOOT_DATA_DIR="$DATA_DIR"
unset DATA_DIR
