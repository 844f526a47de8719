package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Execute runs a command tree with the habits of [Setup].
func Execute(ctx context.Context, root *cobra.Command, args []string, stdout, stderr io.Writer) error {
	Setup(root)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// Setup gives a command tree Rialto's habits: errors are returned, not printed with pages of usage,
// and an unknown command or flag names the nearest one that exists.
func Setup(root *cobra.Command) {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = false
	root.DisableSuggestions = true // ours name one command, and name it for subcommands too
	root.InitDefaultCompletionCmd()
	if bash, _, err := root.Find([]string{"completion", "bash"}); err == nil && bash.RunE != nil {
		script := bash.RunE
		bash.RunE = func(c *cobra.Command, args []string) error {
			if _, err := io.WriteString(c.OutOrStdout(), bashWords); err != nil {
				return err
			}
			return script(c, args)
		}
	}
	groups(root)
}

// bashWords stands in for the one function that cobra's script takes from the package bash-completion, which
// many machines lack: it splits the line into words, leaving ":" and "=" inside them.
const bashWords = `if ! declare -F _get_comp_words_by_ref >/dev/null; then
_get_comp_words_by_ref() {
    local before=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$before"
    [[ $before == *[[:space:]] || -z $before ]] && words+=("")
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=
    if ((cword > 0)); then prev=${words[cword - 1]}; fi
}
fi

`

// groups makes every command that only has subcommands refuse unknown ones.
func groups(c *cobra.Command) {
	for _, sub := range c.Commands() {
		groups(sub)
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			return unknownCommand(c, args[0])
		}
	}
}

func unknownCommand(c *cobra.Command, word string) error {
	var names []string
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
			names = append(names, sub.Aliases...)
		}
	}
	err := fmt.Errorf("unknown command %q", c.CommandPath()+" "+word)
	if near, ok := Nearest(word, names); ok {
		return Hint(err, "did you mean `%s %s`?", c.CommandPath(), near)
	}
	return Hint(err, "`%s --help` lists the commands", c.CommandPath())
}

// flagError names the flag that was not understood and the nearest one.
func flagError(c *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	c.InheritedFlags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			err = fmt.Errorf("unknown flag -%s of `%s`", name, c.CommandPath())
		} else {
			err = fmt.Errorf("unknown flag --%s of `%s`", name, c.CommandPath())
		}
		if near, ok := Nearest(name, names); ok && len(name) > 1 {
			return Hint(err, "did you mean --%s?", near)
		}
		return Hint(err, "`%s --help` lists the flags", c.CommandPath())
	}
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return fmt.Errorf("--%s: %w", bad.GetFlag().Name, bad.Unwrap())
	}
	return err
}

// Args checks how many arguments a command takes, and says it in the words of its usage line:
// at least low, and at most high unless high is negative.
func Args(low, high int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		usage := strings.TrimSuffix(c.UseLine(), " [flags]")
		switch {
		case len(args) < low:
			return Hint(fmt.Errorf("`%s` needs more arguments: %s", c.CommandPath(), usage), "`%s --help` shows examples", c.CommandPath())
		case high >= 0 && len(args) > high:
			return Hint(fmt.Errorf("`%s` does not take %q: %s", c.CommandPath(), args[high], usage), "`%s --help` shows examples", c.CommandPath())
		}
		return nil
	}
}
