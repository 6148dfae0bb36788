{{/* hydrant's configuration, and what has to go with it. All take the chart's own context. */}}

{{- define "hydrant.config" -}}
{{- $given := deepCopy .Values.config -}}
{{- $_ := required "config.delivery_stream_name: which delivery stream do the records go to?" $given.delivery_stream_name -}}
{{- $made := dict
      "buffer" (dict "memory" (printf "%dMiB" (int .Values.bufferMiB)))
      "shutdown" (dict "drain" (printf "%ds" (int .Values.drainSeconds))) -}}
{{- if .Values.spool.enabled -}}
{{- $_ := set $made.buffer "directory" "/var/lib/hydrant/spool" -}}
{{- $_ := set $made.buffer "disk" (printf "%dMiB" (int .Values.spool.sizeMiB)) -}}
{{- end -}}
{{- if eq .Values.mode "daemonset" -}}
{{- $made = set $made "dead_letter" (dict "directory" "/var/lib/hydrant/dead-letters") -}}
{{- end -}}
{{- mergeOverwrite $made $given | toYaml -}}
{{- end -}}

{{/* Of the process besides `buffer.memory` 24 MiB at most, for the kernel's buffers of its sockets 24. */}}
{{- define "hydrant.memory" -}}
{{- printf "%dMi" (add .Values.bufferMiB 48) -}}
{{- end -}}

{{/* The spool's volume beside a sidecar: `buffer.disk`, and room that is reserved ahead. */}}
{{- define "hydrant.spoolVolume" -}}
{{- printf "%dMi" (add .Values.spool.sizeMiB 64) -}}
{{- end -}}

{{- define "hydrant.adminPort" -}}
{{- regexFind "[0-9]+$" .Values.config.admin.address -}}
{{- end -}}

{{/* The pod's terminationGracePeriodSeconds: the application's stop, then the drain, then some to spare. */}}
{{- define "hydrant.gracePeriodSeconds" -}}
{{- if eq .Values.mode "sidecar" -}}
{{- add .Values.appStopSeconds .Values.drainSeconds 5 -}}
{{- else -}}
{{- add .Values.drainSeconds 15 -}}
{{- end -}}
{{- end -}}
