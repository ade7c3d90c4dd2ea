# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How displays look: one style sheet, for light and dark pages, that touches nothing else."""

from __future__ import annotations

from attnpatch.display.markup import Markup

__all__ = ["COLOURS", "STYLE", "colour"]

COLOURS = 6
"""How many patches have a colour of their own; their numbers tell the rest apart."""

# Okabe and Ito's colours, which people with any kind of colour vision tell apart, made darker on
# white and lighter on black until they stand out from both (a contrast of at least 3 to 1).
_LIGHT = {
    "ink": "#1b1f24",
    "soft": "#57606a",
    "paper": "#ffffff",
    "shade": "#f3f5f8",
    "line": "#ccd3db",
    "0": "#0072b2",
    "1": "#c15400",
    "2": "#008161",
    "3": "#b0568a",
    "4": "#8a6d00",
    "5": "#4d5bb0",
    "on": "#ffffff",
}
_DARK = {
    "ink": "#e8ebef",
    "soft": "#a3acb7",
    "paper": "#15181d",
    "shade": "#20252c",
    "line": "#3c444e",
    "0": "#56b4e9",
    "1": "#f0894a",
    "2": "#22a57c",
    "3": "#e08dba",
    "4": "#e6c63c",
    "5": "#9aa5f5",
    "on": "#10131a",
}
# A notebook's own colours come first: JupyterLab's, then VS Code's.
_THEMED = {
    "ink": ("--jp-content-font-color1", "--vscode-editor-foreground"),
    "soft": ("--jp-content-font-color2", "--vscode-descriptionForeground"),
    "paper": ("--jp-layout-color0", "--vscode-editor-background"),
    "shade": ("--jp-layout-color1", "--vscode-editorWidget-background"),
    "line": ("--jp-border-color1", "--vscode-editorWidget-border"),
}
# Where a page says itself whether it is light or dark, the system's choice does not count.
_SAYS_LIGHT = (
    '[data-jp-theme-light="true"]',
    ".vscode-light",
    '[data-md-color-scheme="default"]',
    'html[theme="light"]',
    'body[data-theme="light"]',
)
_SAYS_DARK = (
    '[data-jp-theme-light="false"]',
    ".vscode-dark",
    '[data-md-color-scheme="slate"]',
    'html[theme="dark"]',
    'body[data-theme="dark"]',
)


def colour(index: int) -> str:
    """Give the CSS variable with the colour of a patch, by its place in the stack."""
    return f"var(--ap-{index % COLOURS})"


def _variables(theme: dict[str, str]) -> str:
    found = []
    for name, value in theme.items():
        for variable in reversed(_THEMED.get(name, ())):
            value = f"var({variable},{value})"
        found.append(f"--ap-{name}:{value}")
    return ";".join(found)


def _within(places: tuple[str, ...], theme: dict[str, str]) -> str:
    return f"{','.join(f'{place} .attnpatch' for place in places)}{{{_variables(theme)}}}"


# Pages that take style sheets away (untrusted notebooks, code hosts) show the plain text instead.
_RULES = """
.attnpatch-plain{display:none!important}
.attnpatch{display:block!important;box-sizing:border-box;max-width:58rem;margin:.25rem 0;
 padding:.7rem .9rem .8rem;border:1px solid var(--ap-line);border-radius:.5rem;color:var(--ap-ink);
 background:var(--ap-paper);font:13px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
 text-align:left;overflow-wrap:anywhere}
.attnpatch *{box-sizing:border-box}
.attnpatch .ap-head{display:flex;flex-wrap:wrap;gap:.1rem .7rem;align-items:baseline}
.attnpatch .ap-name{font-weight:650}
.attnpatch .ap-head>.ap-name{font-size:15px}
.attnpatch .ap-soft{color:var(--ap-soft)}
.attnpatch .ap-part{display:flex;flex-wrap:wrap;gap:.5rem 1rem;padding:.6rem 0 0;margin-top:.6rem;
 border-top:1px solid var(--ap-line)}
.attnpatch .ap-text{flex:1 1 15rem;min-width:0}
.attnpatch .ap-badge{display:inline-block;min-width:1.5em;margin-right:.5em;padding:0 .35em;
 border-radius:.3em;color:var(--ap-on);font-weight:650;text-align:center}
.attnpatch .ap-facts{display:grid;grid-template-columns:max-content 1fr;gap:0 .8rem;
 margin:.2rem 0 0}
.attnpatch .ap-facts dt,.attnpatch .ap-facts dd{margin:0;padding:0;font-weight:400;float:none;
 width:auto}
.attnpatch .ap-facts dt{color:var(--ap-soft)}
.attnpatch .ap-facts dd{min-width:0}
.attnpatch figure{min-width:5.5rem;margin:0;padding:0}
.attnpatch figcaption{width:0;min-width:100%;margin:.1rem 0 0;
 color:var(--ap-soft);font-size:11.5px;text-align:left;max-width:none}
.attnpatch .ap-row{display:flex;flex-wrap:wrap;gap:.5rem .8rem;align-items:flex-start}
.attnpatch svg{display:block;max-width:100%;height:auto}
.attnpatch svg text{fill:var(--ap-soft);font-size:10px;font-family:inherit}
.attnpatch img{display:block;max-width:100%;margin:0;border:1px solid var(--ap-line);
 border-radius:.25rem;background:none;box-shadow:none}
.attnpatch .ap-pixels{image-rendering:pixelated}
.attnpatch .ap-map{display:grid;grid-template-columns:max-content 1fr;gap:.3rem .8rem;
 align-items:center;margin-top:.6rem}
.attnpatch .ap-block{white-space:nowrap}
.attnpatch .ap-cells{display:flex;flex-wrap:wrap;gap:3px 9px}
.attnpatch .ap-group{display:flex;flex-wrap:wrap;gap:3px}
.attnpatch .ap-cell{display:flex;overflow:hidden;min-width:1.65em;border-radius:.25em;
 color:var(--ap-on);font:600 11px/1.7 system-ui,sans-serif;text-align:center}
.attnpatch .ap-cell span{flex:1 0 auto;min-width:1.3em;padding:0 .25em}
.attnpatch .ap-none{justify-content:center;color:var(--ap-soft);border:1px dashed;
 font-weight:400}
.attnpatch .ap-legend.ap-legend{margin:.7rem 0 0;padding:0;list-style:none}
.attnpatch .ap-legend li{margin:.15rem 0;padding:0;list-style:none}
.attnpatch .ap-chain{display:flex;flex-wrap:wrap;gap:.35rem;align-items:center;margin:.6rem 0 0}
.attnpatch .ap-box{padding:.25rem .55rem;border:1px solid var(--ap-line);border-radius:.35rem;
 background:var(--ap-shade)}
.attnpatch details{margin:.55rem 0 0}
.attnpatch summary{cursor:pointer;color:var(--ap-soft)}
.attnpatch details pre{margin:.3rem 0 0;padding:.45rem .6rem;border-radius:.35rem;
 white-space:pre-wrap;overflow-wrap:anywhere;color:var(--ap-ink);background:var(--ap-shade);
 font:12px/1.45 ui-monospace,monospace}
"""

STYLE = Markup(
    f"<style>.attnpatch{{{_variables(_LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{.attnpatch{{{_variables(_DARK)}}}}}"
    f"{_within(_SAYS_LIGHT, _LIGHT)}{_within(_SAYS_DARK, _DARK)}"
    f"{_RULES.replace(chr(10), '')}</style>"
)
