# SPDX-License-Identifier: MIT
"""
Makes manual pages and shell completion from what the command says of its own options:

  docs.py TOOL bash|zsh|fish OUTPUT
  docs.py TOOL man OUTPUT TEMPLATE      a page in roff; scdoc has to be there
  docs.py TOOL scd OUTPUT TEMPLATE      the same before scdoc

A template is a page in scdoc's language. @SYNOPSIS@ and @OPTIONS@ are put in from the options of
the verb whose name the file has, @VERBS@ is the list of all.
"""
import json
import re
import subprocess
import sys
from pathlib import Path

FORMATS = ["qcow2", "raw"]
CREATE_OPTIONS = re.compile(r"^  (\w+)=<")
HELP = {"letter": "h", "name": "help", "help": "show this"}


def commands(tool):
    listed = subprocess.run([tool, "--dump-options"], check=True, capture_output=True, text=True)
    return json.loads(listed.stdout)


def create_options(tool):
    text = subprocess.run([tool, "create", "-o", "help"], check=True, capture_output=True,
                          text=True).stdout
    return [m.group(1) for m in map(CREATE_OPTIONS.match, text.splitlines()) if m]


def grouped(command):
    """Options with their other forms: [[option, other, ...], ...]."""
    groups = []
    for option in command["options"] + [HELP]:
        if "help" in option:
            groups.append([option])
        else:
            groups[-1].append(option)
    return groups


def forms(option):
    both = ("-", option.get("letter")), ("--", option.get("name"))
    return [dashes + word for dashes, word in both if word]


def values(option, made):
    """What the option's argument may be: words, "file", or nothing that is known."""
    if "arg" not in option:
        return None
    if "choices" in option:
        return option["choices"]
    if option["arg"] == "FMT":
        return FORMATS
    if option["arg"] == "LIST":
        return [name + "=" for name in made] + ["help"]
    return "file" if option["arg"] == "FILE" else []


# ---- shells ----

BASH = """\
# bash completion of qcow2; made by tools/docs.py

_qcow2_options()
{
	case $1 in
@OPTIONS@
	esac
}

# What the option $2 of the verb $1 takes; "file", or nothing for what isn't known. Fails for
# options without an argument.
_qcow2_values()
{
	case "$1 $2" in
@VALUES@
	*) return 1 ;;
	esac
}

_qcow2()
{
	local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]} values
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "@VERBS@ help --help --version" -- "$cur")
		return
	fi
	[ "$verb" != help ] || {
		mapfile -t COMPREPLY < <(compgen -W "@VERBS@" -- "$cur")
		return
	}
	# --output=json comes in three words
	if [ "$cur" = "=" ]; then
		cur=
	elif [ "$before" = "=" ]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	if values=$(_qcow2_values "$verb" "$before"); then
		case $values in
		file) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
		*) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur") ;;
		esac
	elif [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_qcow2_options "$verb")" -- "$cur")
	else
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	fi
	[[ ${COMPREPLY[0]-} != *= ]] || compopt -o nospace 2>/dev/null || true
}

complete -o filenames -F _qcow2 qcow2
"""


def bash(listed, made):
    options, accepted = [], []
    for command in listed:
        words = [form for group in grouped(command) for o in group for form in forms(o)]
        options.append(f"\t{command['name']}) echo \"{' '.join(words)}\" ;;")
        for group in grouped(command):
            for option in group:
                found = values({**group[0], **option}, made)
                if found is None:
                    continue
                text = found if isinstance(found, str) else " ".join(found)
                pattern = " | ".join(f'"{command["name"]} {f}"' for f in forms(option))
                accepted.append(f'\t{pattern}) echo "{text}" ;;')
    return fill(BASH, OPTIONS="\n".join(options), VALUES="\n".join(accepted),
                VERBS=" ".join(c["name"] for c in listed))


ZSH = """\
#compdef qcow2
# zsh completion of qcow2; made by tools/docs.py

_qcow2()
{
	local context state state_descr line
	typeset -A opt_args
	local -a verbs
	verbs=(
@VERBS@
	)
	_arguments -C '1: :->verb' '*:: :->rest' && return
	case $state in
	verb) _describe 'verb' verbs ;;
	rest)
		case $words[1] in
@CASES@
		esac ;;
	esac
}

_qcow2 "$@"
"""


def zsh_text(text):
    return text.replace("'", "").replace("[", "(").replace("]", ")").replace(":", "\\:")


def zsh_option(option, first, made):
    found = values({**first, **option}, made)
    action = ""
    if found is not None:
        what = zsh_text(first.get("arg") or "")
        if found == "file":
            action = f":{what}:_files"
        else:
            action = f":{what}:({' '.join(found)})" if found else f":{what}: "
    for form in forms(option):
        equals = "=" if form.startswith("--") and found is not None else ""
        yield f"\t\t\t'*{form}{equals}[{zsh_text(first['help'])}]{action}'"


def zsh(listed, made):
    verbs = "\n".join(f"\t\t'{c['name']}:{zsh_text(c['summary'])}'" for c in listed)
    cases = []
    for command in listed:
        lines = [line for group in grouped(command) for option in group
                 for line in zsh_option(option, group[0], made)]
        cases.append(f"\t\t{command['name']}) _arguments \\\n" + " \\\n".join(lines)
                     + " \\\n\t\t\t'*:file:_files' ;;")
    return fill(ZSH, VERBS=verbs, CASES="\n".join(cases))


def fish_text(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def fish(listed, made):
    lines = ["# fish completion of qcow2; made by tools/docs.py", ""]
    for command in listed:
        lines.append(f"complete -c qcow2 -n __fish_use_subcommand -f -a {command['name']} "
                     f"-d {fish_text(command['summary'])}")
    for command in listed:
        for group in grouped(command):
            for option in group:
                words = [f"-n '__fish_seen_subcommand_from {command['name']}'"]
                if "letter" in option:
                    words.append(f"-s {option['letter']}")
                if "name" in option:
                    words.append(f"-l {option['name']}")
                found = values({**group[0], **option}, made)
                if found == "file":
                    words.append("-r -F")
                elif found is not None:
                    words.append("-x" + (f" -a {fish_text(' '.join(found))}" if found else ""))
                lines.append(f"complete -c qcow2 {' '.join(words)} "
                             f"-d {fish_text(group[0]['help'])}")
    return "\n".join(lines) + "\n"


# ---- manual pages ----

def escaped(text):
    return re.sub(r"([\\*_<>~#\[\]])", r"\\\1", text)


def synopsis(command):
    return f"*qcow2 {command['name']}* [_OPTION_]... {escaped(command['operands'])}"


def option_paragraph(group):
    words = [f"*{escaped(form)}*" for option in group for form in forms(option)]
    argument = f" _{escaped(group[0]['arg'])}_" if "arg" in group[0] else ""
    if "optional" in group[0]:
        argument = escaped(f"[={group[0]['optional']}]")
    return f"{', '.join(words)}{argument}\n\t{escaped(group[0]['help'])}\n"


def page(template, listed):
    name = Path(template).name.split(".")[0].removeprefix("qcow2-")
    text = Path(template).read_text()
    command = next((c for c in listed if c["name"] == name), None)
    verbs = "\n".join(f"*qcow2-{c['name']}*(1)\n\t{escaped(c['summary'])}\n" for c in listed)
    options = "\n".join(map(option_paragraph, grouped(command))) if command else ""
    return fill(text, SYNOPSIS=synopsis(command) if command else "", OPTIONS=options, VERBS=verbs)


def fill(text, **parts):
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def main():
    tool, kind, output, *rest = sys.argv[1:]
    listed = commands(tool)
    if kind in ("man", "scd"):
        text = page(rest[0], listed)
    else:
        text = {"bash": bash, "zsh": zsh, "fish": fish}[kind](listed, create_options(tool))
    if kind == "man":
        text = subprocess.run(["scdoc"], input=text, check=True, capture_output=True,
                              text=True).stdout
    Path(output).write_text(text)


if __name__ == "__main__":
    main()
