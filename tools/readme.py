"Write README.md from nbs/index.ipynb, as it is stored: `python tools/readme.py [--check]`"
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent

def text(o):
    "What an output says, for Markdown"
    d = o.get('data', {})
    if 'text/markdown' in d: return ''.join(d['text/markdown'])
    t = ''.join(o.get('text', d.get('text/plain', '')))
    return f'```\n{t.rstrip()}\n```' if t else ''

def readme():
    "The notebook's cells as one Markdown document"
    out = ['<!-- Generated from nbs/index.ipynb by tools/readme.py: edit the notebook. -->']
    for c in json.loads((root/'nbs'/'index.ipynb').read_text())['cells']:
        s = ''.join(c['source'])
        if c['cell_type']=='markdown': out.append(s)
        elif not s.startswith('#| hide'):
            if not s.startswith('#| echo: false'): out.append(f'```python\n{s}\n```')
            out += [t for o in c['outputs'] if (t := text(o))]
    md = '\n\n'.join(out)+'\n'
    return re.sub(r'\]\((images/|tutorials/|explanations/|api\.ipynb|\d\d[a-z]?_[\w.]+\.ipynb)', r'](nbs/\1', md)

if __name__ == '__main__':
    f = root/'README.md'
    if '--check' in sys.argv:
        if not f.exists() or f.read_text()!=readme(): sys.exit('README.md is not what nbs/index.ipynb says: run python tools/readme.py')
    else: f.write_text(readme())
