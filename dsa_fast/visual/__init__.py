"""Every picture: atlases of part images, contact sheets, ranked lists, charts, activation maps and the web report.

May import `evaluation` and everything below it. Only `dsa_fast.cli`, `dsa_fast.tables` and users import it.
"""
