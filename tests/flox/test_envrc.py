"""What of bash is read, and what is refused, with which words."""

import pytest

from nri_flox.flox.envrc import Expansion, Statement, UnsupportedError, parse


def word(value: str) -> object:
    """The parsed value of a single assignment."""
    (statement,) = parse(f"export NAME={value}\n")
    assert statement.exported
    return statement.word


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("", ()),
        ('""', ()),
        ("plain", ("plain",)),
        ("/a:b,c@1.5%+-_", ("/a:b,c@1.5%+-_",)),
        ('"two words"', ("two words",)),
        ("'two words'", ("two words",)),
        ('"two\nlines"', ("two\nlines",)),
        ("'$A `b` \\'", ("$A `b` \\",)),
        ('"it\'s"', ("it's",)),
        ('"$A"', (Expansion("A"),)),
        ('"${A}"', (Expansion("A"),)),
        ("$A", (Expansion("A"),)),
        ('"${A:-b}"', (Expansion("A", ":-", ("b",)),)),
        ('"${A:+b c}"', (Expansion("A", ":+", ("b c",)),)),
        ('"${A:-}"', (Expansion("A", ":-"),)),
        ('"${A:-${B:+$C}}"', (Expansion("A", ":-", (Expansion("B", ":+", (Expansion("C"),)),)),)),
        ('"${A:-{b}}"', (Expansion("A", ":-", ("{b",)), "}")),
        ('"${A:-a\\}b}"', (Expansion("A", ":-", ("a", "}", "b")),)),
        ('"a\\$b"', ("a", "$", "b")),
        ('"a\\nb"', ("a", "\\", "nb")),
        ('"a\\\nb"', ("a", "b")),
        ('"5 $ and $/"', ("5 ", "$", " and ", "$", "/")),
        ("a'b'\"c\"", ("a", "b", "c")),
        ("a=b", ("a=b",)),
        ("--x=y,z", ("--x=y,z",)),
        ("*.[ch]?!^", ("*.[ch]?!^",)),
        ("#1", ("#1",)),
        ("a#b", ("a#b",)),
        ("a # b 'c", ("a",)),
        ("\t# b", ()),
        ("${A:-b}", (Expansion("A", ":-", ("b",)),)),
        ("${A:+b c}d", (Expansion("A", ":+", ("b c",)), "d")),
        ("${A:-'b}'\"c}\"}", (Expansion("A", ":-", ("b}", "c}")),)),
        ("${A:-${B:-$C}}", (Expansion("A", ":-", (Expansion("B", ":-", (Expansion("C"),)),)),)),
    ],
)
def test_a_value_is_read_as_bash_reads_it(value: str, parsed: object) -> None:
    assert word(value) == parsed


@pytest.mark.parametrize(
    ("value", "construct"),
    [
        ('"$(id)"', "a command substitution"),
        ('"`id`"', "a command substitution"),
        ('"$((1+1))"', "a command substitution"),
        ('"$[1+1]"', "arithmetic"),
        ('"${A:-$(id)}"', "a command substitution"),
        ('"${A:-`id`}"', "a command substitution"),
        ('"${A-b}"', "a parameter expansion of another kind"),
        ('"${A:=b}"', "a parameter expansion of another kind"),
        ('"${A:?b}"', "a parameter expansion of another kind"),
        ('"${A%b}"', "a parameter expansion of another kind"),
        ('"${A/b/c}"', "a parameter expansion of another kind"),
        ('"${A[0]}"', "a parameter expansion of another kind"),
        ('"${#A}"', "a parameter expansion of another kind"),
        ('"${!A}"', "a parameter expansion of another kind"),
        ('"${1}"', "a parameter expansion of another kind"),
        ("${A-b}", "a parameter expansion of another kind"),
        ("${A:-~/b}", "a tilde outside quotes"),
        ("${A:-{b}}", "a brace outside quotes"),
        ("${A:-b\\c}", "a backslash outside quotes"),
        ("${A:-<(id)}", "a redirection"),
        ("${A:-$(id)}", "a command substitution"),
        ("${A:-b", "an expansion without end"),
        ('"$1"', "a special parameter"),
        ('"$$"', "a special parameter"),
        ('"$?"', "a special parameter"),
        ('"$@"', "a special parameter"),
        ("\"${A:-'b'}\"", "a single quote inside an expansion"),
        ('"${A:-"b"}"', "a quote"),
        ("$'a'", "a quoted string with escapes"),
        ('$"a"', "a translated string"),
        ("~/a", "a tilde outside quotes"),
        ("a:~", "a tilde outside quotes"),
        ("a\\ b", "a backslash outside quotes"),
        ("a=~", "a tilde outside quotes"),
        ("{a,b}", "a brace outside quotes"),
        ("(a b)", "a parenthesis outside quotes"),
        ("*(a)", "a parenthesis outside quotes"),
        ("a -n", "something else"),
        ("a; id", "a second command on a line"),
        ("a & id", "something else"),
        ("a > /tmp/file", "something else"),
        ("a>/tmp/file", "a redirection"),
        ("\u00e9", "something else than a plain assignment"),
        ("a B=$NAME", "NAME, set and used on one line,"),
        ("a B=1 C=${D:-$B}", "B, set and used on one line,"),
        ('"a', "a quote without end"),
        ('"${A:-b"', "a quote"),
        ("'a", "a single quote"),
        ('"a\0b"', "a NUL"),
        ('"a\udcffb"', "text that is not UTF-8"),
        ('"' + "${A:-" * 17 + "}" * 17 + '"', "an expansion in an expansion"),
        ('"$RANDOM"', "the variable RANDOM"),
        ('"${PWD:-x}"', "the variable PWD"),
        ('"$UID"', "the variable UID"),
        ('"$FLOX_ENV_PROJECT"', "the variable FLOX_ENV_PROJECT"),
        ('"$_FLOX_ENV"', "the variable _FLOX_ENV"),
        ('"$BASH_VERSION"', "the variable BASH_VERSION"),
        ('"${A:-$SECONDS}"', "the variable SECONDS"),
    ],
)
def test_a_value_that_needs_more_than_that_is_refused(value: str, construct: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^line 1: {construct}"):
        list(parse(f"export NAME={value}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "id",
        "export",
        "export -n A",
        "export A+=b",
        "export A[0]=b",
        "export 1A=b",
        "export A =b",
        "export A=b B=(c)",
        "export A=b -n C",
        "export A=b#c FLOX_ENV=/elsewhere",
        "export A FLOX_ENV",
        "export A#c",
        "A=b B=c",
        "declare -x A=b",
        "readonly A=b",
        "unset A",
        "A=b id",
        "A=(b)",
        "if true; then",
        "{ export A=b; }",
        "export UID=0",
        "export IFS=x",
        "export PATH=a;",
        "export POSIXLY_CORRECT=1",
        "export BASH_ENV=/x",
        "export FLOX_CMD=id",
        "export FLOX_ENV=/elsewhere",
        "export _A=b",
        "BASH_ENVTRACE_RESET=2",
        "unset BASH_ENVTRACE_RESET A",
        "export A=b\r",
        "\ufeffexport A=b",
    ],
)
def test_a_line_that_is_more_than_an_export_is_refused(line: str) -> None:
    with pytest.raises(UnsupportedError, match=r"^line 3: .* needs a shell$"):
        list(parse(f"# one\nexport FIRST=1\n{line}\n"))


def test_a_refusal_never_quotes_the_value() -> None:
    with pytest.raises(UnsupportedError) as refusal:
        list(parse('export TOKEN="s3cret$(id)s3cret"\n'))
    assert "s3cret" not in str(refusal.value)


def test_comments_blank_lines_and_trace_marks_say_nothing() -> None:
    text = '# c\n\n  \t\n  # d\nBASH_ENVTRACE_RESET=1\nexport A="b"\nunset BASH_ENVTRACE_RESET\n#e'
    assert list(parse(text)) == [Statement("A", ("b",), exported=True)]


def test_assignments_may_be_exported_later() -> None:
    assert list(parse("A=1\nB=2\nexport A B\n")) == [
        Statement("A", ("1",), exported=False),
        Statement("B", ("2",), exported=False),
        Statement("A", None, exported=True),
        Statement("B", None, exported=True),
    ]


def test_one_line_may_export_several() -> None:
    assert list(parse("export A=1\tB='2 3' C D=$C # why\nexport E=$A")) == [
        Statement("A", ("1",), exported=True),
        Statement("B", ("2 3",), exported=True),
        Statement("C", None, exported=True),
        Statement("D", (Expansion("C"),), exported=True),
        Statement("E", (Expansion("A"),), exported=True),
    ]


@pytest.mark.parametrize(
    ("line", "construct"),
    [("A+=b", "appending to a variable"), ("A[0]=b", "an element of an array"), ("id", "a command")],
)
def test_a_refusal_says_what_it_is(line: str, construct: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^line 1: {construct} needs a shell$"):
        list(parse(line))


def test_the_last_line_needs_no_end() -> None:
    assert list(parse("export A=b")) == [Statement("A", ("b",), exported=True)]
