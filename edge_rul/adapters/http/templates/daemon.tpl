% include("notes.tpl")
% if refused:
<p class="why">The last reload was refused: {{refused}}</p>
% end
<h1>The daemon</h1>
<div class="two">
<section><h2>How it does</h2>
<table class="plain"><tbody>
% for what, value in facts:
<tr><th scope="row">{{what}}</th><td>{{value}}</td></tr>
% end
<tr><th scope="row">Starts</th><td>{{starts[0]}}, of them {{starts[1]}} after no orderly end</td></tr>
% if lost:
<tr><th scope="row">Lost to this page</th><td>{{lost}}</td></tr>
% end
</tbody></table>
% if not facts:
<p class="empty">It is starting.</p>
% end
</section>
<section><h2>What serves</h2>
<table class="plain"><tbody>
% for key, value in info:
<tr><th scope="row">{{key.replace("_", " ").capitalize()}}</th><td class="break">{{value}}</td></tr>
% end
</tbody></table>
<h2>Not used</h2>
% if dropped:
<table class="plain"><thead><tr><th scope="col">Reason</th><th scope="col">Readings and messages</th></tr></thead><tbody>
% for reason, count in dropped:
<tr><th scope="row">{{reason}}</th><td>{{f"{count:,}"}}</td></tr>
% end
</tbody></table>
% else:
<p class="empty">Everything that came was used.</p>
% end
</section>
</div>
