"""The words that personas are drawn from: people, what they type, and what each kind of machine is about.

Data, no logic. `{…}` stands for something that is drawn: `{user}`, `{app}`, `{day}` (of a month, two digits), `{n}`
(one to nine), `{pid}` and `{secret}`. Nothing here names us, an address or a real company;
secrets are made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_NAMES = (
    "anna", "ben", "carla", "david", "elena", "felix", "greta", "hannes", "ines", "jakob", "karin", "lukas", "maria",
    "nils", "olga", "paul", "rosa", "simon", "tanja", "uwe", "vera", "walter", "yvonne", "zoltan",
)  # fmt: skip
LAST_NAMES = (
    "adler", "becker", "conrad", "dietz", "ebner", "fuchs", "graf", "huber", "iversen", "jansen", "koch", "lorenz",
    "maier", "novak", "ortega", "peters", "quast", "reuter", "schmid", "thoma", "ulrich", "vogel", "winter", "zeller",
)  # fmt: skip

DOMAINS = ("intern", "lan", "corp", "office.lan", "hq.lan", "local.lan", "prod.lan", "srv.lan")
"""Ends of host names, one for each LAN."""

LIKELY_ADMINS = frozenset({"admin", "deploy", "operator", "support", "ubuntu", "vagrant", "backup"})
"""Accounts that an administrator gave sudo."""

COMMON = (
    "ls -la", "ls", "cd ..", "cd", "df -h", "free -m", "top", "htop", "w", "last | head", "uptime", "ip a", "ip r",
    "ss -tlnp", "ps aux | grep {app}", "sudo -i", "sudo su -", "su -", "exit", "clear", "history | grep {app}",
    "tail -f /var/log/syslog", "tail -n 100 /var/log/auth.log", "less /var/log/syslog", "grep -i error /var/log/syslog",
    "crontab -l", "crontab -e", "date", "cat /etc/os-release", "uname -a", "apt update", "apt list --upgradable",
    "sudo apt update && sudo apt upgrade", "sudo apt autoremove", "passwd", "vi /etc/hosts", "nano notes.txt",
    "cat notes.txt", "du -sh *", "du -sh /var/* | sort -h", "ping -c3 gw", "mkdir old", "mv *.log old/", "rm -r old",
    "kill {pid}", "service --status-all", "sudo service cron restart", "screen -ls", "screen -r", "man 5 crontab",
    "chmod +x run.sh", "./run.sh", "cat /proc/cpuinfo | grep model", "lsof -i", "scp plan-{day}.pdf {user}@files-{n}:",
    "ssh {user}@backup-{n}", "ssh -v {user}@db-{n}", "rsync -av . backup-{n}:/srv/{user}/", "sl", "cd -", "sudo !!",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trade:
    """What a kind of machine is about.

    Attributes:
        stems: how such machines are called.
        apps: what runs there, one is drawn.
        commands: what is typed there.
        files: what lies there, by path; `{…}` as in commands.
    """

    stems: tuple[str, ...]
    apps: tuple[str, ...]
    commands: tuple[str, ...]
    files: Mapping[str, str]


_BACKUP = """\
#!/bin/sh
# nightly, called by cron - {user}
set -e
cd /
tar czf /var/backups/{app}-$(date +%u).tar.gz etc srv 2>/dev/null || true
find /var/backups -name '{app}-*.tar.gz' -mtime +14 -delete
logger -t {app} "backup done"
"""

TRADES: tuple[Trade, ...] = (
    Trade(
        ("files", "fs", "share", "archive", "nas", "backup", "bkp", "store"),
        ("archive", "nightly", "depot", "vault"),
        (
            "cd /srv/{app}",
            "ls -lt /srv/{app} | head",
            "du -sh /srv/{app}/*",
            "rsync -avn /srv/{app}/ backup-{n}:/srv/",
            "find /srv/{app} -mtime +90 -size +100M",
            "sudo /usr/local/bin/{app}.sh",
            "zcat /var/backups/{app}-{n}.tar.gz | tar t",
            "tar tzf /var/backups/{app}-{n}.tar.gz | wc -l",
            "chown -R {user}: /srv/{app}/{user}",
            "mount | grep srv",
        ),
        {
            "usr/local/bin/{app}.sh": _BACKUP,
            "etc/cron.d/{app}": "# m h dom mon dow user command\n{day} 2 * * *\troot\t/usr/local/bin/{app}.sh\n",
            "srv/{app}/README": "One folder each. Everything older than 90 days goes to tape.\nQuestions: {user}\n",
            "srv/{app}/{user}/tapes.csv": "tape;from;to;where\nA0{n}{day};2024-0{n}-01;2024-0{n}-{day};safe 2\n",
        },
    ),
    Trade(
        ("web", "intra", "wiki", "portal", "cms", "mail", "relay", "mx"),
        ("intranet", "wiki", "portal", "shop"),
        (
            "cd /var/www/{app}",
            "git pull",
            "git status",
            "curl -I localhost",
            "tail -f /var/log/{app}/access.log",
            "grep 500 /var/log/{app}/access.log | tail",
            "vi /opt/{app}/settings.ini",
            "openssl x509 -in cert.pem -noout -dates",
            "sudo service {app} restart",
            "tar xzf {app}-2.{n}.{day}.tar.gz",
            "wget https://localhost/{app}/health -O -",
        ),
        {
            "opt/{app}/settings.ini": "[{app}]\nbase = http://{app}.lan/\nlanguage = de\n\n[database]\n"
            "host = db-{n}\nuser = {app}\npassword = {secret}\n",
            "opt/{app}/CHANGES": "2.{n}.{day}\n  - new header\n  - mails are sent again\n",
            "var/www/{app}/index.html": "<html><head><title>{app}</title></head><body><h1>{app}</h1></body></html>\n",
        },
    ),
    Trade(
        ("db", "sql", "pg", "reports", "app", "erp", "crm", "hr-app", "ticket"),
        ("orders", "ledger", "crm", "reports"),
        (
            "psql -h db-{n} {app}",
            "pg_dump -h db-{n} {app} > {app}.sql",
            "mysql -u {app} -p",
            "gzip {app}.sql",
            "vi /opt/{app}/{app}.conf",
            "tail -f /var/log/{app}.log",
            "sudo service {app} restart",
            "ls -lh *.sql.gz",
            "zgrep -c INSERT {app}-{day}.sql.gz",
            "scp {app}.sql.gz {user}@backup-{n}:",
            "cat /opt/{app}/{app}.conf",
        ),
        {
            "opt/{app}/{app}.conf": "# {app}, see wiki\ndb.host=db-{n}\ndb.name={app}\ndb.user={app}\n"
            "db.password={secret}\npool.size={n}\n",
            "opt/{app}/bin/run.sh": "#!/bin/sh\ncd /opt/{app} || exit 1\nexec python3 -m {app} --config {app}.conf\n",
            "srv/exports/{app}-{day}.csv": "id;customer;amount\n10{n}{day};K-{day}{n};{n}{n}0.00\n"
            "10{n}{n};K-{n}{day};{day}.50\n",
        },
    ),
    Trade(
        ("git", "build", "ci", "jenkins", "registry", "dev", "test", "stage", "lab"),
        ("pipeline", "runner", "builder", "sandbox"),
        (
            "git clone ssh://git-{n}/{app}.git",
            "make",
            "make test",
            "make -j4 2>&1 | tee build.log",
            "git log --oneline | head",
            "git diff",
            "python3 -m venv env",
            "pip install -r requirements.txt",
            "vi Makefile",
            "cd {app}",
            "./deploy.sh stage",
            "grep -r TODO src | wc -l",
            "tail build.log",
            "rm -rf build/",
        ),
        {
            "home/{user}/{app}/Makefile": "all:\n\tpython3 -m compileall src\n\ntest:\n\tpython3 -m unittest\n",
            "home/{user}/{app}/deploy.sh": "#!/bin/sh\n# usage: deploy.sh stage|prod\nset -e\nrsync -a build/ "
            "deploy@web-{n}:/opt/{app}/\n",
            "home/{user}/{app}/build.log": "compiling 1{n}{day} files\ndone in {day}.{n} s\n",
        },
    ),
    Trade(
        ("mon", "log", "zabbix", "graylog", "print", "cam-nvr", "door", "bms"),
        ("collector", "sensors", "probe", "panel"),
        (
            "snmpwalk -v2c -c public sw-{n} | head",
            "tail -f /var/log/{app}.log",
            "vi /etc/{app}/hosts",
            "traceroute gw",
            "sudo service {app} restart",
            "lpstat -a",
            "nc -vz printer-{n} 9100",
            "ping printer-{n}",
            "nmap -sn 192.168.{n}.0/24",
            "cat /etc/{app}/hosts | wc -l",
            "grep -c DOWN /var/log/{app}.log",
        ),
        {
            "etc/{app}/hosts": "# name\tcheck\nsw-{n}\tping\ndb-{n}\ttcp:5432\nprinter-{n}\ttcp:9100\n",
            "usr/local/bin/{app}-check": '#!/bin/sh\nwhile read -r name check; do\n  echo "$(date +%s) $name $check"\n'
            "done < /etc/{app}/hosts >> /var/log/{app}.log\n",
            "etc/cron.d/{app}": "*/15 * * * *\troot\t/usr/local/bin/{app}-check\n",
            "var/log/{app}.log": "1690000{n}{day} sw-{n} ping\n1690001{n}{day} db-{n} tcp:5432\n",
        },
    ),
)

NOTES = (
    "call the provider about the line, customer number 4{n}{day}{n}\n",
    "todo\n- renew certificate before the {day}.\n- disk of db-{n}\n- ask {user} about the old server\n",
    "new password for the printer panel: {secret}\n",
    "shopping: milk, bread, coffee filters\n",
    "ticket 1{day}{n}{n}: still slow after the update, look again on monday\n",
)

SECRETS = ("Winter2023!", "Sommer2024", "k4ffee", "Passw0rd.1", "geheim123", "Qwertz!23", "letmein99", "mausi1985")

MOTDS = (
    None,
    None,
    "\nAuthorized users only. All activity may be monitored and reported.\n\n",
    "\n  {host}.{domain}\n  {app} - contact: {user}\n\n",
    "\nWillkommen auf {host}\nWartung: jeden 2. Dienstag, 18-20 Uhr\n\n",
)
