% include("notes.tpl")
<nav class="shows" aria-label="Which assets">
% for label, count, here, link in shows:
<a id="show-{{label}}" href="{{link}}"{{!' aria-current="true"' if here else ""}}>{{label}} <b>{{count}}</b></a>
% end
</nav>
<table class="fleet" role="table">
<caption class="unseen">Assets, {{first if matches else 0}} to {{first + len(rows) - 1}} of {{matches}}</caption>
<thead role="rowgroup"><tr role="row">
% for key, heading, direction, link in columns:
<th scope="col" role="columnheader" class="{{key}}"{{!f' aria-sort="{direction}"' if direction else ""}}><a id="by-{{key}}" href="{{link}}">{{heading}}{{f", {unit}" if key == "rul" else ""}}{{{"ascending": " ▴", "descending": " ▾", None: ""}[direction]}}</a></th>
% end
</tr></thead>
<tbody role="rowgroup">
% for row in rows:
<tr role="row">
<th scope="row" role="rowheader" class="asset"><a id="asset-{{row["name"]}}" href="{{row["link"]}}">{{row["name"]}}</a></th>
% if row["answer"] is None:
<td role="cell" class="waiting" colspan="3">waiting for a full window</td>
% else:
<td role="cell" class="health level{{row["level"]}}"><span aria-hidden="true">{{row["symbol"]}}</span> {{row["health"]}} <small>{{row["probability"]}}</small></td>
<td role="cell" class="rul"><b>{{row["rul"]}}</b>\\
% if row["interval"]:
 <small>{{row["interval"]}}{{"" if row["reliable"] else " ?"}}</small>\\
% end
</td>
<td role="cell" class="trend" title="change of RUL in {{trend_cycles}} cycles">{{!row["spark"]}}<span>{{row["trend"][0]}} {{row["trend"][1]}}</span></td>
% end
<td role="cell" class="urgency">\\
% if row["alarm"] is not None:
<span class="alarm {{row["alarm"].priority}}{{" known" if row["alarm"].acknowledged else ""}}">▲ {{row["alarm"].name}}</span> <small>{{row["about"]}}</small>
% end
% if row["quietly"]:
<small>{{row["quietly"]}}</small>\\
% end
</td>
<td role="cell" class="quality">\\
% if row["answer"] is not None:
{{"? " if row["uncertain"] else ""}}{{row["quality"]}}\\
% end
</td>
<td role="cell" class="cycle"><span class="label">cycle </span>{{row["cycle"]}}</td>
<td role="cell" class="seen"><span class="label">seen </span><time datetime="{{row["seen_at"]}}">{{row["seen"]}}</time>{{!" <b>stale</b>" if row["stale"] else ""}}</td>
</tr>
% end
</tbody>
</table>
% if not rows:
<p class="empty">{{"No asset matches." if heard else "No asset has been heard of yet."}}</p>
% end
% if pages > 1:
<nav class="pages" aria-label="Pages of the list">
% if previous:
<a id="previous" href="{{previous}}" rel="prev">‹ Previous</a>
% end
<span>Page {{page}} of {{pages}}</span>
% if following:
<a id="following" href="{{following}}" rel="next">Next ›</a>
% end
</nav>
% end
