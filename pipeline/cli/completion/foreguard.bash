# Completion of foreguard for bash. Words are split here, because bash takes = and : for the ends of words and cannot be told otherwise.
_foreguard() {
  local line=${COMP_LINE:0:COMP_POINT} candidate escaped typed kept
  local -a words
  read -a words <<<"$line"
  [[ $line == *[[:space:]] ]] && words+=("")
  typed=${words[${#words[@]} - 1]}
  kept=${typed%"${typed##*[=:]}"} # what bash leaves as it stands
  COMPREPLY=()
  while IFS= read -r candidate; do
    printf -v escaped %q "${candidate#"$kept"}"
    escaped=${escaped/#\\~/\~}
    [[ $candidate == *[=./] ]] || escaped+=" "
    COMPREPLY+=("$escaped")
  done < <("${words[0]/#\~/$HOME}" completion words "${words[@]:1}" 2>/dev/null)
}
complete -o nospace -F _foreguard foreguard
