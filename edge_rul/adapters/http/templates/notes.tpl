% for note in daemon:
<p class="note" role="alert">▲ {{note}}</p>
% end
