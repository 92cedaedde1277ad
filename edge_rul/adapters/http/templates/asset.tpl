% include("notes.tpl")
<h1>{{row["name"]}}</h1>
<p class="facts">
% for level, value in levels:
<span>{{level}} <b>{{value}}</b></span>
% end
<span>cycle <b>{{row["cycle"]}}</b></span>
% if row["answer"] is not None:
<span>life <b>{{row["answer"].life}}</b></span>
% end
<span>seen <b><time datetime="{{row["seen_at"]}}">{{row["seen"]}}</time></b></span>
% if row["event_at"]:
<span>event time <b><time datetime="{{row["event_at"]}}">{{row["event_at"][:19].replace("T", " ")}} UTC</time></b></span>
% end
</p>
% if row["answer"] is None:
<p class="empty">Waiting for a full window: the first prediction comes with {{window}} readings of one life.</p>
% else:
<div class="cards">
<section><h2>Remaining useful life</h2>
<p class="big">{{row["rul"]}} <small>{{unit}}</small></p>
<p>{{row["interval"]}}{{"" if row["reliable"] else ", not to be relied upon: inputs beyond training"}}{{" · " if row["interval"] and row["trend"][1] else ""}}{{f"{row['trend'][0]} {row['trend'][1]} in 20 cycles" if row["trend"][1] else ""}}</p>
% if row["behind"]:
<p>of cycle {{shown(row["answer"].cycle)}}</p>
% end
</section>
<section><h2>Health</h2>
<p class="big level{{row["level"]}}"><span aria-hidden="true">{{row["symbol"]}}</span> {{row["health"]}}</p>
<p>{{" · ".join(row["probabilities"])}}</p>
</section>
<section><h2>Alarms</h2>
% for alarm in alarms:
<p><span class="alarm {{alarm.priority}}{{" known" if alarm.acknowledged or not alarm.on else ""}}">{{"▲" if alarm.on else "–"}} {{alarm.name}}</span> {{alarm.state.value}} since cycle {{shown(alarm.since)}}, {{alarm.priority}}{{", acknowledged" if alarm.acknowledged else ""}}{{"" if alarm.shelved_until is None else f", shelved until cycle {shown(alarm.shelved_until)}"}}</p>
% end
% if not alarms:
<p class="big quiet">none</p>
% end
</section>
<section><h2>Quality</h2>
<p class="big">{{"? uncertain" if row["uncertain"] else "good"}}</p>
<p>{{row["quality"] if row["uncertain"] else "the whole window as it was measured"}}</p>
</section>
</div>
<h2>RUL over cycles</h2>
<figure>{{!chart}}</figure>
<details><summary>The last values</summary>
<table class="plain"><thead><tr><th scope="col">Life</th><th scope="col">Cycle</th><th scope="col">RUL, {{unit}}</th><th scope="col">Interval</th></tr></thead><tbody>
% for point, interval in points:
<tr><td>{{point.life}}</td><td>{{shown(point.cycle)}}</td><td>{{f"{point.rul:.1f}"}}</td><td>{{interval or "–"}}</td></tr>
% end
</tbody></table></details>
% end
% if sensors:
<h2>Sensors of the newest reading</h2>
<table class="plain sensors" role="table"><thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Input</th><th scope="col" role="columnheader">Value</th><th scope="col" role="columnheader">Range in training</th><th scope="col" role="columnheader">Place</th></tr></thead><tbody role="rowgroup">
% for sensor in sensors:
<tr role="row" class="{{sensor["place"]}}"><th scope="row" role="rowheader">{{sensor["name"]}}\\
% if sensor["description"]:
 <small>{{sensor["description"]}}</small>\\
% end
</th><td role="cell" class="number">{{sensor["value"]}} <small>{{sensor["unit"]}}</small></td><td role="cell" class="number"><span class="label">training </span>{{sensor["range"]}}</td><td role="cell">{{!sensor["bar"]}} <span>{{"▲ " if sensor["place"] == "above" else "▼ " if sensor["place"] == "below" else ""}}{{sensor["place"]}}</span></td></tr>
% end
</tbody></table>
% end
