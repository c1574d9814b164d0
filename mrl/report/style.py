"""The style of the page: one column, text that keeps its size, and colours for light, dark and paper.

Every pair of text and ground has a contrast of 4.5 at least, every line one of 3: a test computes both. The
hues stay apart for the colour-blind, and no series is told by its hue alone.
"""

from __future__ import annotations

LIGHT = {
    "ground": "#fbfaf7",
    "sheet": "#ffffff",
    "ink": "#1b1d22",
    "soft": "#565b66",
    "rule": "#dcd9d1",
    "accent": "#0a4fbf",
    "warn": "#7a3e00",
    "warn-ground": "#fdf1dc",
    "prefix": "#0a4fbf",
    "pca": "#c0440b",
    "random": "#6f7480",
    "unnormalized": "#0b7f7a",
    "last": "#8a6a00",
    "int8": "#a8327d",
    "binary": "#3a3d45",
    "rotation": "#3d7a1f",
    "adaptor": "#6f45c9",
    "other": "#70665c",
}
DARK = {
    "ground": "#14161a",
    "sheet": "#1b1e24",
    "ink": "#eceae5",
    "soft": "#a9adb7",
    "rule": "#363a43",
    "accent": "#8ab8ff",
    "warn": "#ffcf8a",
    "warn-ground": "#33270f",
    "prefix": "#8ab8ff",
    "pca": "#ff9a66",
    "random": "#9aa0ac",
    "unnormalized": "#4fd0c7",
    "last": "#e0c050",
    "int8": "#f08fce",
    "binary": "#d5d8df",
    "rotation": "#93d06f",
    "adaptor": "#bda4ff",
    "other": "#b9aea2",
}
TEXT = (
    ("ink", "ground"),
    ("ink", "sheet"),
    ("soft", "ground"),
    ("soft", "sheet"),
    ("accent", "ground"),
    ("warn", "warn-ground"),
    ("ink", "warn-ground"),
)
"""Pairs of text and what it stands on."""
KINDS = ("prefix", "pca", "random", "unnormalized", "last", "int8", "binary", "rotation", "adaptor", "other")


def css() -> str:
    """The style sheet."""
    light, dark = (";".join(f"--{name}:{value}" for name, value in hues.items()) for hues in (LIGHT, DARK))
    kinds = "".join(f".m-{kind}{{--hue:var(--{kind})}}" for kind in KINDS)
    return (
        f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"{RULES}{kinds}{PRINT.replace('LIGHT', light)}"
    )


RULES = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%;scroll-behavior:smooth}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--ground);color:var(--ink);
font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Liberation Sans",Arial,sans-serif;
overflow-wrap:anywhere}
header,main,footer{max-width:62rem;margin:0 auto;padding:0 1.125rem}
header{padding-top:2rem}
h1,h2,h3,p,ul,ol,dl,figure,table{margin:0}
h1{font-size:1.375rem;line-height:1.25;font-weight:700;letter-spacing:-.012em;text-wrap:balance}
h2{font-size:1.3125rem;line-height:1.3;font-weight:650;letter-spacing:-.01em;text-wrap:balance}
h3{font-size:1rem;font-weight:650;line-height:1.35}
a{color:var(--accent);text-underline-offset:.2em;text-decoration-thickness:1px}
:focus-visible{outline:2px solid var(--accent);outline-offset:3px;border-radius:2px}
.facts{color:var(--soft);font-size:.875rem;margin-top:.375rem}
.facts span{white-space:nowrap}
.facts span:not(:last-child)::after{content:"\\00b7";margin:0 .45em}
main>section{margin-top:2.75rem}
.findings{margin-top:1.75rem!important}
.verdict{margin-top:1.5rem!important;padding-top:1.375rem;border-top:3px solid var(--ink)}
.verdict h2{font-size:.875rem;font-weight:650;letter-spacing:0;color:var(--accent);margin-bottom:.5rem}
.verdict .lead{font:500 1.625rem/1.28 Charter,"Bitstream Charter","Iowan Old Style","Source Serif 4",Georgia,
"Liberation Serif",serif;letter-spacing:-.012em;text-wrap:pretty;max-width:34em}
.verdict ul{list-style:none;padding:0;margin-top:1.25rem;max-width:42rem}
.verdict li{padding:.75rem 0;border-top:1px solid var(--rule);font-size:1.0625rem;line-height:1.5}
.range{color:var(--soft);font-size:.86em;white-space:nowrap}
.lead .range{font-size:.72em;letter-spacing:0}
.findings{background:var(--warn-ground);padding:1.125rem 1.125rem 1.25rem;border-radius:.5rem;max-width:44rem}
.findings h2{color:var(--warn);font-size:1.0625rem}
.findings ul{padding-left:1.2rem;margin-top:.5rem}
.findings li{padding-left:.2rem}
.findings li+li{margin-top:.5rem}
.findings li::marker{color:var(--warn)}
nav{margin-top:2rem;font-size:.875rem}
nav ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1.125rem}
nav a{display:inline-block;padding:.3rem 0}
.note-text{color:var(--soft);max-width:42rem;margin-top:.375rem}
figure{margin-top:1.25rem;display:flow-root}
figcaption{color:var(--soft);font-size:.875rem;margin-top:.25rem;max-width:42rem}
.legend{list-style:none;padding:0;margin:1rem 0 0;display:flex;flex-wrap:wrap;gap:.3rem 1.1rem;font-size:.875rem}
.legend li{display:flex;align-items:center;gap:.45rem}
.legend svg{flex:none;overflow:visible}
svg{fill:none;stroke:none}
.small-plot{margin:.75rem .5rem 1.75rem 2.375rem!important;width:calc(100% - 2.875rem)!important}
.plot{display:block;overflow:visible;margin:2.25rem .5rem 3rem 2.625rem;width:calc(100% - 3.125rem)}
.plot text{fill:var(--soft);font-size:12px;text-anchor:middle;font-variant-numeric:tabular-nums}
.plot text.end{text-anchor:end}
.plot text.start{text-anchor:start}
.plot text.name{fill:var(--ink)}
.plot text.note{paint-order:stroke;stroke:var(--ground);stroke-width:4px;stroke-linejoin:round}
.plot text.wide{display:none}
.grid{stroke:var(--rule)}
.axis{stroke:var(--soft)}
.guide{stroke:var(--soft);stroke-dasharray:2 3}
.at{overflow:visible}
.at path,.legend line{stroke:var(--hue);stroke-width:1.75}
.at path{fill:var(--ground)}
.reach{pointer-events:all}
polyline{stroke:var(--hue);stroke-width:1.75;stroke-linejoin:round}
.band{fill:var(--hue);opacity:.16}
.whisker{stroke:var(--hue);stroke-width:1.75}
.m-prefix .at path{fill:var(--hue)}
.m-prefix polyline,.m-prefix>svg:first-child line{stroke-width:3}
.multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17.5rem),1fr));gap:1.5rem 2rem}
.multiples figure{margin-top:1rem;display:flex;flex-direction:column;justify-content:space-between}
.multiples figcaption{margin-top:0}
.scroll{overflow-x:auto;margin-top:1rem;border-top:1px solid var(--ink);border-bottom:1px solid var(--rule);
background:linear-gradient(90deg,var(--ground) 40%,transparent) 0 0/40px 100% no-repeat local,
linear-gradient(270deg,var(--ground) 40%,transparent) 100% 0/40px 100% no-repeat local,
linear-gradient(90deg,var(--rule),transparent) 0 0/14px 100% no-repeat scroll,
linear-gradient(270deg,var(--rule),transparent) 100% 0/14px 100% no-repeat scroll}
table{border-collapse:collapse;width:100%;font-size:.9375rem;font-variant-numeric:tabular-nums;line-height:1.35}
caption{text-align:left;color:var(--soft);font-size:.875rem;padding:.5rem 0}
th,td{padding:.5rem .625rem;text-align:right;vertical-align:top;white-space:nowrap}
th:first-child,td:first-child{padding-left:.125rem;text-align:left}
thead th{font-weight:600;font-size:.8125rem;vertical-align:bottom;white-space:normal;min-width:4.75rem;
overflow-wrap:normal;border-bottom:1px solid var(--rule)}
thead th:first-child{min-width:0}
tbody th{font-weight:600}
th:first-child{position:sticky;left:0;background:var(--ground)}
tbody tr+tr>*{border-top:1px solid var(--rule)}
tbody.group>tr:first-child th{text-align:left;white-space:normal;padding-top:1rem;position:static}
caption span,tbody.group>tr:first-child span{display:inline-block;position:sticky;left:0;
max-width:min(calc(100vw - 2.75rem),60rem)}
td small,.small{display:block;color:var(--soft);font-size:.75rem;font-weight:400}
td.words,thead th.words{text-align:left}
tr.chosen>*{font-weight:650;color:var(--accent)}
details{border-top:1px solid var(--rule)}
details:last-of-type{border-bottom:1px solid var(--rule)}
summary{padding:.75rem 0;cursor:pointer;font-weight:600}
summary span{display:block;font-weight:400;color:var(--soft);font-size:.875rem;margin-left:1.05rem}
details[open]{padding-bottom:1.25rem}
.stack{margin-top:1rem}
dl+h3{margin-top:2rem}
dl{margin-top:1rem;display:grid;grid-template-columns:1fr;max-width:44rem}
dt{font-weight:600;font-size:.9375rem;padding-top:.625rem;border-top:1px solid var(--rule)}
dd{margin:0;padding-bottom:.625rem;color:var(--soft)}
footer{margin-top:3.5rem;padding-bottom:3rem;color:var(--soft);font-size:.875rem}
@media(min-width:44rem){
header,main,footer{padding-left:2rem;padding-right:2rem}
header{padding-top:3.25rem}
h1{font-size:1.75rem}
h2{font-size:1.5rem}
.verdict .lead{font-size:2.375rem;line-height:1.2;letter-spacing:-.018em}
.verdict li{font-size:1.125rem}
main>section{margin-top:4rem}
.findings{padding:1.375rem 1.5rem 1.5rem}
.plot text.wide{display:inline}
.multiples .plot text.wide{display:none}
dl{grid-template-columns:minmax(12rem,auto) 1fr;column-gap:2rem}
dd{padding-top:.625rem;border-top:1px solid var(--rule)}
}
"""

PRINT = """
@media print{:root{LIGHT;--ground:#fff;--warn-ground:#fff}
nav{display:none}
body{font-size:10.5pt}
header{padding-top:0}
.findings{border:1px solid var(--warn)}
figure,tr,.verdict li,.findings{break-inside:avoid}
h2,h3,summary,caption,thead{break-after:avoid}
.scroll{overflow:visible}
details::details-content{content-visibility:visible;display:block;block-size:auto}
th,td{padding:.25rem .4rem;white-space:normal}
}
"""
