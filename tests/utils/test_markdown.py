"""Text stays text: nothing that a record says acts as Markdown or HTML."""

import pytest

from hf_bkd.utils.markdown import escaped, folded, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Laplace, λ = 0.5", "Laplace, λ = 0.5"),
        ("+0.27 [-4.43, +4.96]", "+0.27 [-4.43, +4.96]"),
        ("wrn_16_1 _x_", "wrn_16_1 \\_x\\_"),
        ("<script>&", "&lt;script&gt;&amp;"),
        ("a [b](javascript:c) [d]: e", "a [b\\](javascript:c) [d\\]: e"),
        ("[x]: javascript:y", "\\[x\\]: javascript:y"),
        ("a|b\\`c` *d* $e$ ~f~", "a\\|b\\\\\\`c\\` \\*d\\* \\$e\\$ \\~f\\~"),
        ("a\r\n# b\u2028c\x00\x1b[0m", "a # b c[0m"),
        ("# a", "\\# a"),
        ("1. a", "1\\. a"),
        ("- a", "\\- a"),
        ("-0.3", "-0.3"),
        (7, "7"),
    ],
)
def test_escaped(text, expected):
    assert escaped(text) == expected


def test_markup_keeps_emphasis_and_code_but_no_links_and_html():
    assert escaped("*a* `b_c`\n[d](e) <f>", markup=True) == "*a* `b_c` [d\\](e) &lt;f&gt;"


def test_tables_and_folded_blocks():
    assert table([["a", "b"], ["x|y", 1]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |\n"
    assert folded("More <b>", "text\n") == "<details>\n<summary>More &lt;b&gt;</summary>\n\ntext\n\n</details>\n"
