from stgt.markdown import table


def test_cells_are_text():
    lines = table(["a|b", "n"], [["$x$ <script> <= 3 < 4", "1"], ["line\nbreak \x1b", "22"]]).split("\n")
    assert lines == [
        r"| a\|b                     | n  |",
        "|--------------------------|----|",
        r"| \$x\$ \<script> <= 3 < 4 | 1  |",
        r"| line\nbreak \x1b         | 22 |",
    ]
