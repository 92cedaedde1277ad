<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}} · edge_rul</title>
<link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/style.css">
<script src="/static/live.js" defer></script>
<noscript><meta http-equiv="refresh" content="10"></noscript>
</head>
<body data-live="{{source}}">
<a class="skip" href="#live">Skip to the content</a>
<header>
<a class="brand" href="/">edge_rul</a>
<nav aria-label="Pages">
<a href="/"{{!' aria-current="page"' if name == "fleet" else ""}}>Fleet</a>
<a href="/daemon"{{!' aria-current="page"' if name == "daemon" else ""}}>Daemon</a>
</nav>
<span class="state"><span id="state" role="status"></span><button id="pause" type="button" aria-pressed="false" hidden>Pause</button></span>
</header>
<main>
% if query is not None:
<form method="get" action="/" role="search">
<label>Asset <input type="search" name="q" value="{{query.text}}" maxlength="200" placeholder="part of the name"></label>
<label>Health <select name="health">
<option value="">any</option>
% for class_ in classes:
<option{{!" selected" if class_ == query.health else ""}}>{{class_}}</option>
% end
</select></label>
% for field, value in (("show", query.show), ("sort", query.sort), ("desc", "1" if query.reverse else "")):
% if value and value not in ("all", "urgency"):
<input type="hidden" name="{{field}}" value="{{value}}">
% end
% end
<button type="submit">Filter</button>
% if query.text or query.health:
<a href="/">Clear</a>
% end
</form>
% end
<div id="live" tabindex="-1">
{{!live}}
</div>
</main>
</body>
</html>
