# Names on the server first; what else can stand here comes from _ftc, and files from bash.
_ftc_names() {
    local line="${COMP_LINE:0:COMP_POINT}" word
    mapfile -t COMPREPLY < <(command ftc complete -- "$line" "$2" 2>/dev/null </dev/null)
    if [[ ${#COMPREPLY[@]} -gt 0 ]]; then
        compopt -o filenames # So that bash quotes them.
        [[ ${#COMPREPLY[@]} -gt 1 || ${COMPREPLY[0]} != */ ]] || compopt -o nospace
        return 0
    fi
    # No file here is meant where a colon stands before any slash.
    word="${line##*[[:space:]]}"
    if [[ ${word%%/*} == *:* ]]; then
        compopt +o default +o bashdefault
        return 0
    fi
    # Options where one is begun; else files, save for the verb itself.
    case " ${COMP_WORDS[*]:1:COMP_CWORD-1} " in
        *" put "* | *" get "* | *" ls "* | *" stat "* | *" rm "* | *" mv "* | *" mkdir "* | *" verify "*)
            [[ $2 == -* ]] || return 0
            ;;
    esac
    _ftc "$@"
}

complete -F _ftc_names -o nosort -o bashdefault -o default ftc
