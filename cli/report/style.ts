/** The report's look. Colours are from Okabe and Ito's palette, which the colour-blind tell apart. */
export default /* css */ `
:root {
  --page: #f6f7f9; --card: #ffffff; --text: #1c2430; --soft: #5b6675; --line: #e3e7ec; --track: #eef1f5; --quiet: #9aa5b1;
  --train: #d55e00; --test: #0072b2; --wrong: #c2410c; --on-accent: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #11151b; --card: #1a2029; --text: #e6eaf0; --soft: #9aa7b5; --line: #2b3440; --track: #252d38; --quiet: #66727f;
    --train: #f0924c; --test: #56b4e9; --wrong: #f08a5d; --on-accent: #0d1218;
  }
}
@media print {
  :root {
    --page: #fff; --card: #fff; --text: #000; --soft: #444; --line: #ccc; --track: #eee; --quiet: #888;
    --train: #d55e00; --test: #0072b2; --wrong: #c2410c; --on-accent: #fff;
  }
  section, figure, tr { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 32px 20px 48px; }
header h1 { margin: 0; font-size: 26px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
header p { margin: 4px 0 20px; color: var(--soft); }
h2 { margin: 0 0 8px; font-size: 15px; font-weight: 600; }
h3 { margin: 20px 0 6px; font-size: 14px; }
section > p { margin: 0 0 12px; color: var(--soft); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px 18px; margin-bottom: 16px; min-width: 0;
}
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 16px; margin-bottom: 16px; }
.grid section { margin: 0; }
.headline { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 0 0 24px; }
.headline dt { color: var(--soft); font-size: 13px; }
.headline dd { margin: 0; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
.legend { display: flex; gap: 16px; font-size: 13px; margin: 0; }
.legend span::before { content: ""; display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: middle; }
.legend .train::before { background: var(--train); }
.legend .test::before { background: var(--test); }
svg { display: block; max-width: 100%; height: auto; overflow: visible; }
.grid > section > svg { width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
td, th { padding: 3px 14px 3px 0; text-align: left; font-weight: 400; vertical-align: top; }
tr + tr td, tr + tr th, tbody tr td { border-top: 1px solid var(--line); }
thead th { color: var(--soft); }
.numbers td, .numbers th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers .word { text-align: left; }
.numbers { min-width: 60%; }
.best td { font-weight: 700; color: var(--test); }
.facts { width: 100%; }
.facts th { color: var(--soft); white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.wrong { display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 14px 10px; }
.wrong figure { margin: 0; }
.wrong img { width: 112px; height: 112px; object-fit: contain; image-rendering: pixelated; border-radius: 6px; background: var(--track); }
.wrong figcaption { font-size: 12px; line-height: 1.35; margin-top: 4px; color: var(--soft); overflow-wrap: anywhere; }
.wrong b { color: var(--wrong); font-weight: 600; }
.filters { max-width: 100%; height: auto; image-rendering: pixelated; }
footer { color: var(--soft); font-size: 12px; margin-top: 24px; }
`;
