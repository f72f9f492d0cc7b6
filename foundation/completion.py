"""What may be typed next, by a command's argparse parser: so a completion says what the command itself takes, and is never stale.

The scripts for the shells ask this anew at every TAB; where nothing is known they complete names of files.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence

Values = Mapping[str, Callable[[], Iterable[str]]]
"""By what a flag is called in the namespace: what may stand there."""

SCRIPTS = {
    "bash": """\
# Put this into ~/.bashrc:  eval "$(dgms completion bash)"
_dgms() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _dgms dgms
""",
    "zsh": """\
#compdef dgms
# Put this into ~/.zshrc, behind compinit:  eval "$(dgms completion zsh)"
_dgms() {
    local -a found
    found=(${(f)"$($words[1] completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
compdef _dgms dgms
""",
    "fish": """\
# Put this into ~/.config/fish/config.fish:  dgms completion fish | source
function __dgms
    set -l typed (commandline -opc)
    set -l found ($typed[1] completion words -- $typed[2..] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c dgms -f -a '(__dgms)'
""",
}


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], values: Values) -> list[str]:
    """What may stand for the last of ``words``, which is not typed to its end; nothing where any text or file may.

    Args:
        words: what follows the command's name. An ``=`` of its own is what bash makes of ``--flag=value``.
    """
    *before, last = [word for word in words if word != "="] or [""]
    if words and words[-1] == "=":
        before, last = [*before, last], ""
    flag, equals, rest = last.partition("=")
    if equals and flag.startswith("--"):
        inner = candidates(parser, [*before, flag, rest], values)
        return [f"{flag}={value}" for value in inner]
    waiting: argparse.Action | None = None
    used: set[argparse.Action] = set()
    places = _places(parser)
    for word in before:
        action = parser._option_string_actions.get(word)
        if action is not None:
            used.add(action)
            waiting = action if action.nargs != 0 else None
        elif waiting is not None:
            waiting = waiting if waiting.nargs in ("+", "*") else None
        elif places:
            place = places[0] if places[0].nargs in ("+", "*") else places.pop(0)
            if isinstance(place, argparse._SubParsersAction) and word in place.choices:
                parser = place.choices[word]
                places = _places(parser)
    if last.startswith("-"):
        offered: Iterable[str] = _flags(parser, used)
    else:
        what = waiting or (places[0] if places else None)
        offered = _values(what, values) if what else ()
        if not waiting and not places and not last:
            offered = _flags(parser, used)
    return sorted(value for value in set(offered) if value.startswith(last))


def _places(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not action.option_strings]


def _flags(parser: argparse.ArgumentParser, used: set[argparse.Action]) -> Iterable[str]:
    for action in parser._actions:
        if action not in used and action.help != argparse.SUPPRESS:
            yield from (text for text in action.option_strings if text.startswith("--"))


def _values(action: argparse.Action, values: Values) -> Iterable[str]:
    if action.choices is not None:
        return map(str, action.choices)
    return values[action.dest]() if action.dest in values else ()
