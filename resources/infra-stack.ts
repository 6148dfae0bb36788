/**
 * The AWS resources that hydrant delivers to, as one CloudFormation stack:
 *
 *   producers -> hydrant -> delivery stream -> S3 bucket
 *                              |-> error log, alarms, dashboard
 *
 *   $ npm ci
 *   $ npx cdk synth      # the template; needs no AWS account
 *   $ npx cdk deploy     # needs credentials, and no `cdk bootstrap`
 *
 * Settings are in cdk.json. What hydrant may do, and what is watched, is read from the files that
 * are there for those without CDK: iam-policy.json, cloudwatch-alarms.json and
 * cloudwatch-dashboard.json. So there is one list of each. docs/DEPLOY.md goes through all of it.
 */

import * as cdk from 'aws-cdk-lib';
import * as iam from 'aws-cdk-lib/aws-iam';
import * as firehose from 'aws-cdk-lib/aws-kinesisfirehose';
import * as logs from 'aws-cdk-lib/aws-logs';
import * as s3 from 'aws-cdk-lib/aws-s3';
import * as sns from 'aws-cdk-lib/aws-sns';
import * as subscriptions from 'aws-cdk-lib/aws-sns-subscriptions';
import type { Node } from 'constructs';

import alarms from './cloudwatch-alarms.json';
import dashboard from './cloudwatch-dashboard.json';
import policy from './iam-policy.json';

/** What is set in cdk.json, or by `--context`. */
interface Settings {
  /** Where everything is made. */
  readonly region: string;
  /** The stream's name: hydrant's `delivery_stream_name`. */
  readonly deliveryStreamName: string;
  /** Firehose writes an object after this long, 0 to 900 s, … */
  readonly bufferingIntervalSeconds: number;
  /** … or with this much, 1 to 128 MiB, whichever comes first. */
  readonly bufferingSizeMiB: number;
  /** hydrant's `aggregate.compression`: none, gzip or zstd. */
  readonly aggregateCompression: string;
  /**
   * What Firehose compresses objects to: UNCOMPRESSED, GZIP, ZIP, SNAPPY or HADOOP_SNAPPY. Empty is GZIP, and UNCOMPRESSED
   * where hydrant has compressed them.
   */
  readonly compression: string;
  /** What the objects' names end with. Empty is what hydrant's compression wants, or else what Firehose takes by itself. */
  readonly fileExtension: string;
  /** Objects are deleted after so many days; 0 keeps them for ever. */
  readonly retentionDays: number;
  /** hydrant's `monitor.publish_namespace`; without one, no alarm is on hydrant's own figures. */
  readonly metricsNamespace: string;
  /** An SNS topic for the alarms that is there already, … */
  readonly alarmTopicArn: string;
  /** … or an address for which one is made; with neither, alarms only change their colour. */
  readonly alarmEmail: string;
}

/** By hydrant's `aggregate.compression`, what readers know such files by. */
const EXTENSIONS: Record<string, string> = { none: '', gzip: '.gz', zstd: '.zst' };

const COMPRESSIONS = ['UNCOMPRESSED', 'GZIP', 'ZIP', 'SNAPPY', 'HADOOP_SNAPPY'];

/** The settings of this run. Throws one error that names everything that is wrong. */
function settings(node: Node): Settings {
  const faults: string[] = [];
  const text = (key: keyof Settings, pattern: RegExp, right: string): string => {
    const value = String(node.tryGetContext(key) ?? '');
    if (!pattern.test(value)) {
      faults.push(`${key} is ${JSON.stringify(value)}: it must be ${right}`);
    }
    return value;
  };
  const whole = (key: keyof Settings, least: number, most: number): number => {
    const value = Number(text(key, /^\d+$/, `a whole number, ${least} to ${most}`));
    if (value < least || value > most) {
      faults.push(`${key} is ${value}: it must be ${least} to ${most}`);
    }
    return value;
  };
  const all: Settings = {
    region: text('region', /^[a-z]{2,}(-[a-z]+)+-\d+$/, 'the name of an AWS region, such as eu-west-1'),
    deliveryStreamName: text('deliveryStreamName', /^[\w.-]{1,64}$/, '1 to 64 letters, digits, "_", "." or "-"'),
    bufferingIntervalSeconds: whole('bufferingIntervalSeconds', 0, 900),
    bufferingSizeMiB: whole('bufferingSizeMiB', 1, 128),
    aggregateCompression: text('aggregateCompression', /^(none|gzip|zstd)$/, 'none, gzip or zstd, as aggregate.compression of hydrant'),
    compression: text('compression', new RegExp(`^(|${COMPRESSIONS.join('|')})$`), `one of ${COMPRESSIONS.join(', ')}, or empty`),
    // https://docs.aws.amazon.com/firehose/latest/APIReference/API_ExtendedS3DestinationConfiguration.html
    fileExtension: text('fileExtension', /^$|^\.[0-9a-z!\-_.*'()]{1,127}$/, 'a dot and up to 127 of a-z, 0-9 and !-_.*\'(), or empty'),
    retentionDays: whole('retentionDays', 0, 36500),
    metricsNamespace: text('metricsNamespace', /^(?!AWS\/)[\w.\-/#: ]{0,255}$/, 'a CloudWatch namespace outside AWS/, or empty'),
    alarmTopicArn: text('alarmTopicArn', /^$|^arn:[\w-]+:sns:[\w-]+:\d{12}:[\w.-]+$/, 'the ARN of an SNS topic, or empty'),
    alarmEmail: text('alarmEmail', /^$|^[^@\s]+@[^@\s]+$/, 'an e-mail address, or empty'),
  };
  if (all.alarmTopicArn && all.alarmEmail) {
    faults.push('alarmTopicArn and alarmEmail are both set: subscribe the address to the topic, and leave it out here');
  }
  const extension = EXTENSIONS[all.aggregateCompression] ?? '';
  if (extension && !['', 'UNCOMPRESSED'].includes(all.compression)) {
    faults.push(`compression is ${all.compression}, and aggregateCompression ${all.aggregateCompression}: what hydrant has compressed must not be compressed again, and it sends nothing to a stream that would; leave compression empty`);
  }
  if (extension && all.fileExtension && !all.fileExtension.endsWith(extension)) {
    faults.push(`fileExtension is ${JSON.stringify(all.fileExtension)}: it must end with ${extension}, by which readers know what aggregateCompression makes`);
  }
  if (faults.length > 0) {
    throw new Error(`cdk.json, or --context: ${faults.join('; ')}`);
  }
  const compression = all.compression || (extension ? 'UNCOMPRESSED' : 'GZIP');
  return { ...all, compression, fileExtension: all.fileExtension || extension };
}

/** The stream, where it delivers to, who may put into it, and what watches it. */
class HydrantStack extends cdk.Stack {
  constructor(app: cdk.App, private readonly settings: Settings) {
    super(app, 'Hydrant', {
      stackName: `hydrant-${settings.deliveryStreamName.replace(/[^A-Za-z0-9]+/g, '-')}`,
      description: `Delivery stream ${settings.deliveryStreamName}, its bucket, and what hydrant needs to deliver to it`,
      // The account is that of whoever deploys.
      env: { region: settings.region },
      // Nothing has to be uploaded beside the template, so no bucket of CDK's own is needed.
      synthesizer: new cdk.BootstraplessSynthesizer(),
    });
    const bucket = this.bucket();
    const errors = this.errorLog();
    const stream = this.deliveryStream(bucket, errors);
    const producers = this.producerPolicy(stream);
    this.alarms(this.topicArn());
    this.dashboard();
    this.output('DeliveryStreamName', 'For delivery_stream_name', stream.deliveryStreamName);
    this.output('Region', 'For region', this.region);
    this.output('ProducerPolicyArn', "Attach it to the role that hydrant's container or instance runs as", producers.managedPolicyArn);
    this.output('BucketName', 'Where the records are: below records/, what failed below errors/', bucket.bucketName);
    this.output('ErrorLogGroupName', 'What Firehose says about deliveries that fail', errors.logGroupName);
  }

  private bucket(): s3.Bucket {
    const { retentionDays } = this.settings;
    return new s3.Bucket(this, 'Records', {
      encryption: s3.BucketEncryption.S3_MANAGED,
      blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
      objectOwnership: s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
      enforceSSL: true,
      minimumTLSVersion: 1.2,
      // Firehose writes an object once, under a name that never comes again: there is no older
      // version to keep, and a role that can't delete.
      versioned: false,
      lifecycleRules: [
        {
          id: 'records',
          // The parts of an upload that was given up are paid for and never seen.
          abortIncompleteMultipartUploadAfter: cdk.Duration.days(7),
          transitions: [{
            storageClass: s3.StorageClass.INTELLIGENT_TIERING,
            transitionAfter: cdk.Duration.days(0),
          }],
          // Errors too: what is below errors/ are records that were not delivered elsewhere.
          expiration: retentionDays > 0 ? cdk.Duration.days(retentionDays) : undefined,
        },
      ],
      // Deleting the stack keeps the records.
      removalPolicy: cdk.RemovalPolicy.RETAIN,
    });
  }

  private errorLog(): logs.LogGroup {
    return new logs.LogGroup(this, 'Errors', {
      logGroupName: `/aws/kinesisfirehose/${this.settings.deliveryStreamName}`,
      retention: logs.RetentionDays.THREE_MONTHS,
      // It holds no records, and would be in the way of the next stack of this name.
      removalPolicy: cdk.RemovalPolicy.DESTROY,
    });
  }

  private deliveryStream(bucket: s3.Bucket, errors: logs.LogGroup): firehose.DeliveryStream {
    const { deliveryStreamName, bufferingIntervalSeconds, bufferingSizeMiB, compression, fileExtension } = this.settings;
    return new firehose.DeliveryStream(this, 'Stream', {
      deliveryStreamName,
      // At rest within Firehose, by a key that is AWS's: producers need no right to use it.
      encryption: firehose.StreamEncryption.awsOwnedKey(),
      destination: new firehose.S3Bucket(bucket, {
        bufferingInterval: cdk.Duration.seconds(bufferingIntervalSeconds),
        bufferingSize: cdk.Size.mebibytes(bufferingSizeMiB),
        compression: compression === 'UNCOMPRESSED' ? undefined : firehose.Compression.of(compression),
        fileExtension: fileExtension || undefined,
        dataOutputPrefix: 'records/!{timestamp:yyyy/MM/dd/HH}/',
        errorOutputPrefix: 'errors/!{firehose:error-output-type}/!{timestamp:yyyy/MM/dd}/',
        loggingConfig: new firehose.EnableLogging(errors),
        // CDK would add all of reading, writing and deleting.
        role: this.deliveryRole(bucket, errors).withoutPolicyUpdates(),
      }),
    });
  }

  /** What Firehose may do in this account: write objects into the bucket, and say what failed. */
  private deliveryRole(bucket: s3.Bucket, errors: logs.LogGroup): iam.Role {
    return new iam.Role(this, 'DeliveryRole', {
      description: `Firehose delivers ${this.settings.deliveryStreamName} to S3`,
      assumedBy: new iam.ServicePrincipal('firehose.amazonaws.com', {
        // Firehose gives the account of the stream's owner, so nobody else's stream can use the role.
        conditions: { StringEquals: { 'sts:ExternalId': this.account } },
      }),
      inlinePolicies: {
        deliver: new iam.PolicyDocument({
          statements: [
            new iam.PolicyStatement({
              actions: ['s3:GetBucketLocation', 's3:ListBucket', 's3:ListBucketMultipartUploads'],
              resources: [bucket.bucketArn],
            }),
            new iam.PolicyStatement({
              actions: ['s3:AbortMultipartUpload', 's3:GetObject', 's3:PutObject'],
              resources: [bucket.arnForObjects('*')],
            }),
            new iam.PolicyStatement({
              actions: ['logs:PutLogEvents'],
              resources: [errors.logGroupArn],
            }),
          ],
        }),
      },
    });
  }

  /** What hydrant may do: iam-policy.json, for this stream. */
  private producerPolicy(stream: firehose.DeliveryStream): iam.ManagedPolicy {
    const statements = this.filled(policy.Statement).filter((statement) => this.isWanted(statement));
    return new iam.ManagedPolicy(this, 'Producers', {
      description: `hydrant delivers to ${this.settings.deliveryStreamName}`,
      document: iam.PolicyDocument.fromJson({
        Version: policy.Version,
        Statement: statements.map((statement) =>
          statement.Resource === '*' ? statement : { ...statement, Resource: stream.deliveryStreamArn }),
      }),
    });
  }

  /** Who is told of alarms, if anybody. */
  private topicArn(): string | undefined {
    const { alarmTopicArn, alarmEmail } = this.settings;
    if (!alarmEmail) {
      return alarmTopicArn || undefined;
    }
    const topic = new sns.Topic(this, 'Alarms', { displayName: 'hydrant', enforceSSL: true });
    topic.addSubscription(new subscriptions.EmailSubscription(alarmEmail));
    // A topic with a policy of its own has lost the default one, by which alarms could publish.
    topic.grantPublish(new iam.ServicePrincipal('cloudwatch.amazonaws.com', {
      conditions: { StringEquals: { 'aws:SourceAccount': this.account } },
    }));
    return topic.topicArn;
  }

  /** The alarms of cloudwatch-alarms.json. */
  private alarms(topicArn: string | undefined): void {
    for (const alarm of this.filled(alarms).filter((alarm) => this.isWanted(alarm))) {
      const id = alarm.AlarmName.replace(`hydrant-${this.settings.deliveryStreamName}-`, '');
      const actions = topicArn ? [topicArn] : undefined;
      const properties = { ...alarm, AlarmActions: actions, OKActions: actions };
      if (id === 'data-freshness') {
        // Records wait for the buffering interval without anything being wrong.
        const threshold = Math.max(alarm.Threshold, 2 * this.settings.bufferingIntervalSeconds);
        const minutes = (seconds: number): string => `${Math.ceil(seconds / 60)} minutes`;
        properties.Threshold = threshold;
        properties.AlarmDescription = alarm.AlarmDescription.replace(minutes(alarm.Threshold), minutes(threshold));
      }
      new cdk.CfnResource(this, `alarm-${id}`, { type: 'AWS::CloudWatch::Alarm', properties });
    }
  }

  /** The dashboard of cloudwatch-dashboard.json. */
  private dashboard(): void {
    const { widgets, ...rest } = this.filled(dashboard);
    const body = { ...rest, widgets: widgets.filter((widget) => this.isWanted(widget)) };
    new cdk.CfnResource(this, 'Dashboard', {
      type: 'AWS::CloudWatch::Dashboard',
      properties: {
        DashboardName: `hydrant-${this.settings.deliveryStreamName.replaceAll('.', '_')}`,
        DashboardBody: JSON.stringify(body),
      },
    });
  }

  /** What a file of this folder says, with this stack's values for its `${…}`. */
  private filled<T>(file: T): T {
    const values: Record<string, string> = {
      STREAM: this.settings.deliveryStreamName,
      REGION: this.settings.region,
      NAMESPACE: this.settings.metricsNamespace || UNWANTED,
    };
    return JSON.parse(JSON.stringify(file), (_key, value) =>
      typeof value === 'string' ? value.replace(/\$\{(\w+)\}/g, (whole, name) => values[name] ?? whole) : value);
  }

  /** Whether this part of a file has to do with something that there is. */
  private isWanted(part: unknown): boolean {
    return !JSON.stringify(part).includes(UNWANTED);
  }

  private output(name: string, description: string, value: string): void {
    new cdk.CfnOutput(this, name, { description, value });
  }
}

/** Stands for hydrant's own figures where they are not published: no namespace can be called this. */
const UNWANTED = '*not published*';

const app = new cdk.App();
new HydrantStack(app, settings(app.node));
