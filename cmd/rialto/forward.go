package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"rialto/broker"
	"rialto/tunnel"
)

func (a *app) forwardCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "forward JOB LOCAL:REMOTE…",
		Short: "Lead local ports to ports in a container",
		Long: "Lead local TCP ports to ports in a container, through the job's tunnel, until Ctrl-C. The server in the\n" +
			"container may listen on its loopback address. LOCAL 0 takes a free port.",
		Example:           "  rialto forward --last 8080:80\n  rialto forward j-4k2 8888 0.0.0.0:8080:80",
		ValidArgsFunction: a.completeJobs(true),
	}
	ref := newJobRef(c)
	node := nodeFlag(c, "rank of the node, of a job that runs on several hosts; 0 is the first")
	c.RunE = func(c *cobra.Command, args []string) error {
		word, ports, err := ref.split(c, args, 1, -1)
		if err != nil {
			return err
		}
		forwards := make([]forward, len(ports))
		for i, text := range ports {
			if forwards[i], err = parseForward(text); err != nil {
				return err
			}
		}
		s, err := a.reach(c.Context(), word, *node, true)
		if err != nil {
			return err
		}
		defer s.close()
		if s.over {
			return fmt.Errorf("job %s has ended", s.lease.Job)
		}
		if err := s.publish(c.Context(), forwards, a.say); err != nil {
			return err
		}
		a.say("Ctrl-C ends the forwarding; the job goes on")
		return s.group.Wait()
	}
	return c
}

func (a *app) tunnelCommand() *cobra.Command {
	c := &cobra.Command{Use: "tunnel", Short: "Use a job's tunnel with other programs", Example: "  rialto tunnel conf --last"}
	conf := &cobra.Command{
		Use:   "conf JOB",
		Short: "Print a job's tunnel for wg-quick and the official WireGuard clients",
		Long: "Print the customer's end of a job's tunnel as a .conf for wg-quick and the official WireGuard clients.\n" +
			"It holds the private key. One end can be used at a time: while the .conf is active, leave `rialto logs`,\n" +
			"`exec` and `forward` alone.",
		Example:           "  rialto tunnel conf --last > job.conf && sudo wg-quick up ./job.conf",
		ValidArgsFunction: a.completeJobs(true),
	}
	ref := newJobRef(conf)
	node := nodeFlag(conf, "rank of the node, of a job that runs on several hosts; 0 is the first")
	conf.RunE = func(c *cobra.Command, args []string) error {
		word, _, err := ref.split(c, args, 0, 0)
		if err != nil {
			return err
		}
		m, err := a.connect()
		if err != nil {
			return err
		}
		job, err := m.find(c.Context(), word)
		if err != nil {
			return err
		}
		if job, err = m.node(c.Context(), job, *node); err != nil {
			return err
		}
		r, err := m.home.recordOf(job)
		if err != nil {
			return err
		}
		lease, err := m.Lease(c.Context(), broker.JobID(job.ID))
		if err != nil {
			return explain(err)
		}
		cfg, err := tunnelConfig(r, lease)
		if err != nil {
			return err
		}
		text, err := tunnel.WireGuardConf(cfg.Tunnel)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(a.stdout, text)
		return err
	}
	c.AddCommand(conf)
	return c
}
