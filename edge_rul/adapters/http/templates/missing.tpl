% include("notes.tpl")
<p><a href="/">To the fleet</a></p>
